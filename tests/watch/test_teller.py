from dataclasses import replace

from handmade import STATUS

from fedhello.watch.teller import PageTeller


def test_what_a_run_does_is_told_until_it_has_a_folder():
    told = []
    teller = PageTeller(told.append)
    teller.on_loading("the model")
    teller.on_progress(replace(STATUS, phase="heads"))
    teller.on_start(None, None)
    teller.on_progress(STATUS)
    assert told == ["loading the model …", "solving the head from the clients' statistics …"]
