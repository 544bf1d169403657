import pytest

from fedhello.report.themes import CATEGORIES, INK, THEMES


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_of_black_and_white():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("theme", THEMES)
def test_marks_and_words_stand_out_from_the_page(theme):
    ink, muted, _, paper = INK[theme]
    assert min(contrast(colour, paper) for colour in CATEGORIES[theme]) >= 3
    assert min(contrast(ink, paper), contrast(muted, paper)) >= 4.5
