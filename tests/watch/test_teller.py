from dataclasses import replace

from handmade import STATUS

from fedhello.watch.teller import PageTeller


def test_what_a_run_does_is_told_until_it_has_a_folder():
    told = []
    teller = PageTeller(told.append)
    teller.on_loading("the model")
    for connected in (0, 0, 1):
        teller.on_waiting(connected, 3)
    teller.on_progress(replace(STATUS, phase="heads"))
    teller.on_start(None, None)
    teller.on_progress(STATUS)
    waiting = [f"waiting for clients: {here} of 3 are here …" for here in (0, 1)]
    assert told == ["loading the model …", *waiting, "solving the head from the clients' statistics …"]
