import shutil
from pathlib import Path

import fedhello as fh

GOLDEN = Path(__file__).parent.parent / "golden" / "run-0.1"


def test_a_backup_is_written_restored_and_said_to_hold_no_keys(call, tmp_path):
    shutil.copytree(GOLDEN / "half", tmp_path / "half")
    code, out, err = call(tmp_path, "backup", "half", "a.tar")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("wrote a.tar: half after ") and "no keys" in out
    code, out, err = call(tmp_path, "restore", "a.tar", "back")
    assert (code, err) == (0, "")
    assert "its results are there" in out
    (tmp_path / "half" / "summary.json").unlink()
    assert call(tmp_path, "backup", "half", "b.tar")[0] == 0
    assert "fedhello resume again" in call(tmp_path, "restore", "b.tar", "again")[1]
    assert call(tmp_path, "restore", "a.tar", "back")[0] == fh.RunFolderError.exit_code
    assert call(tmp_path, "backup", "half", "a.tar")[0] == fh.RunFolderError.exit_code
