"""What appears whole or not at all."""

import threading
import time

import pytest

from minimtnlg.files import appearing, only_one


def test_a_file_appears_at_the_end(tmp_path):
    path = tmp_path / "new" / "file"
    with appearing(path) as aside:
        aside.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_file_stays_as_it_was(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), appearing(path) as aside:
        aside.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_in_place_of_an_empty_one_only(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    for content in ("first", "second"):
        if content == "second":
            with pytest.raises(OSError), appearing(path) as aside:
                aside.mkdir()
        else:
            with appearing(path) as aside:
                aside.mkdir()
                (aside / "file").write_text(content)
    assert (path / "file").read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_not_mixed_in(tmp_path):
    left = tmp_path / ".folder.partial"
    left.mkdir()
    (left / "old").touch()
    with appearing(tmp_path / "folder") as aside:
        assert not aside.exists()
        aside.mkdir()
    assert not list((tmp_path / "folder").iterdir())


def test_only_one_at_a_time(tmp_path, capsys):
    order = []

    def work(name):
        with only_one(tmp_path / "lock", "it"):
            order.append(f"{name} in")
            time.sleep(0.1)
            order.append(f"{name} out")

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = order[0][0], order[2][0]
    assert order == [f"{first} in", f"{first} out", f"{second} in", f"{second} out"]
    assert "waiting for another process that makes it" in capsys.readouterr().err
