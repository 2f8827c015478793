"""The folder of a run: which model it began with, and whether that is still the one that is there."""

from system import files
from training.comparison import Keys
from training.folder import RunFolder


def test_a_model_that_was_made_again_is_told_to_a_run_that_began_with_it(tmp_path, capsys):
    model, folder = tmp_path / "before/model.pth.tar", tmp_path / "run"

    def opened(**config):
        """Open the folder as a command does; returns whether it says that the model is another one."""
        settings = {"root_dir": str(tmp_path), "overwrite": False, "device": "cpu", "precision": "fp32", **config}
        assert RunFolder(folder, settings, Keys(carried_out=("overwrite",), start=model)).open() is None
        (folder / "checkpoint.pth.tar").write_bytes(b"something is kept")
        files.add_to_list(folder, ["checkpoint.pth.tar"])
        return "has changed since the run in" in capsys.readouterr().err

    files.write_text(model, "first", record=True)
    assert not opened() and not opened()
    files.write_text(model, "second", record=True)
    assert opened() and opened()  # what it began with is not forgotten
    assert not opened(overwrite=True) and not opened()
    model.unlink()
    assert not opened()  # nobody knows
