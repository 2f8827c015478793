"""What a run's record names as its commit."""

import subprocess
from pathlib import Path

from training.record import git_commit


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_changed_code_is_dirty_and_changed_results_are_not(tmp_path: Path) -> None:
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    git(tmp_path, "init", "--quiet")
    for path in (tmp_path / "scan.py", results / "digits.json"):
        path.write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")[:12]
    assert git_commit(tmp_path) == commit
    (results / "digits.json").write_text("2")
    (tmp_path / "new.txt").write_text("untracked")
    assert git_commit(tmp_path) == commit
    (tmp_path / "scan.py").write_text("2")
    assert git_commit(tmp_path) == f"{commit}-dirty"


def test_a_folder_outside_a_repository_has_no_commit(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
