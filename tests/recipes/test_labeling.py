from pathlib import Path
from types import SimpleNamespace

from recipes.labeling import find_places


def test_an_export_goes_next_to_the_output_folder_however_that_is_named(tmp_path, monkeypatch):
    (tmp_path / "out" / "labels").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "out" / "labels")
    for output in ("..", "../", "../../out", "../labels/..", str(tmp_path / "out")):
        places = find_places(SimpleNamespace(output=output, export="coco", export_to=None, copy_to=None, link_to=None))
        assert places.exported.resolve() == tmp_path / "out-coco"
    monkeypatch.chdir(tmp_path)
    places = find_places(SimpleNamespace(output="out/", export="coco", export_to=None, copy_to=None, link_to=None))
    assert places.exported == Path("out-coco")
