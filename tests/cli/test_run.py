from fedhello.errors import OutOfReachError


def test_the_commands_for_one_machine_refuse_runs_of_many(workplace, call):
    for command in (["run"], ["run", "--dry-run"]):
        code, out, err = call(workplace, *command, "tiny.yaml", "run.engine=flower")
        assert (code, out) == (2, "")
        assert "fedhello server" in err


def test_a_dry_run_checks_what_a_run_would_stop_at_and_writes_nothing(workplace, call):
    before = sorted(workplace.iterdir())
    for words, code in (([], 0), (["run.track=[nowhere]"], 2), (["data.name=absent.csv"], 3)):
        assert call(workplace, "run", "tiny.yaml", "--dry-run", "--json", "run.out=new", *words)[0] == code, words
    assert sorted(workplace.iterdir()) == before


def test_a_model_out_of_reach_is_said_not_to_be_checked(workplace, call, monkeypatch):
    def out_of_reach(config):
        raise OutOfReachError("some/model is on the hub")

    monkeypatch.setattr("fedhello.setup.prepare.prepare", out_of_reach)
    code, out, err = call(workplace, "run", "tiny.yaml", "--dry-run", "--quiet", "run.out=new")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "not checked, since it must be downloaded first: some/model is on the hub"
