"""Case 5: one flipped bit, anywhere."""

MAGIC_AND_LENGTH = 8


def test_no_flipped_bit_goes_unseen(letter):
    for position in range(8 * len(letter.good)):
        flipped = bytearray(letter.good)
        flipped[position // 8] ^= 1 << position % 8
        reason = letter.reason(bytes(flipped))
        if position // 8 >= MAGIC_AND_LENGTH:
            assert reason == "checksum", position
        else:
            assert reason in ("malformed", "checksum"), position
