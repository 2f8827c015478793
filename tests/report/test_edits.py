import csv
import hashlib
import json
import random

import pytest

from report.edits import Clustering, Labels, fingerprint, read_clusters, read_labels, to_edits, write_labels
from system.errors import UserError

PATHS = ["a.jpg", "=b.jpg", "sub/ü.jpg", "\udce9.jpg", "e\rf.jpg"]
CLUSTERING = Clustering(PATHS, [0, 0, 1, 2, 2], ["0.9", "0.8", "0.7", "0.6", "0.5"])
EDITS = {
    "format": "scan-edits-1",
    "fingerprint": CLUSTERING.fingerprint,
    "names": {},
    "merged": {},
    "rejected": [],
    "moved": {},
}


def read(tmp_path, **changes):
    path = tmp_path / "edits.json"
    path.write_text(json.dumps(EDITS | changes))
    return read_labels(path, CLUSTERING)


def table(tmp_path, data):
    path = tmp_path / "given.csv"
    path.write_bytes(data)
    return read_labels(path, CLUSTERING)


def test_the_fingerprint_is_that_of_paths_and_clusters():
    data = b"a\x001\x00\xe9\x000\x00"
    assert fingerprint(["a", "\udce9"], [1, 0]) == hashlib.sha256(data).hexdigest()


def test_names_merges_rejections_and_moves(tmp_path):
    labels = read(tmp_path, names={"0": "cat", "1": " big  dog ", "2": "x"}, merged={"2": 0}, moved={"0": 1})
    assert labels.names == ["big dog", "cat", "big dog", "cat", "cat"]
    assert labels.by_hand == [True, False, False, False, False]
    assert labels.classes == ["big dog", "cat"] and labels.shared == []
    labels = read(tmp_path, names={"0": "cat", "1": "dog", "3": "new"}, rejected=[1], moved={"0": -1, "4": 3})
    assert labels.names == ["", "cat", "", "", "new"]
    assert labels.by_hand == [True, False, False, False, True]


def test_a_chain_of_merges_is_followed_and_a_move_into_a_merged_group_goes_along(tmp_path):
    labels = read(tmp_path, names={"3": "end"}, merged={"0": 1, "1": 3}, moved={"4": 0})
    assert labels.names == ["end", "end", "end", "", "end"]


def test_clusters_of_one_name_are_one_class_and_said_to_be(tmp_path):
    labels = read(tmp_path, names={"0": "cat", "1": "cat", "2": "dog"})
    assert labels.shared == ["cat"] and labels.classes == ["cat", "dog"]


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"fingerprint": "0" * 64}, "another clustering"),
        ({"format": "other"}, "damaged"),
        ({"names": {"x": "cat"}}, "x is no group"),
        ({"moved": {"5": 0}}, "5 is no image"),
        ({"moved": {"1": "0"}}, "damaged"),
        ({"merged": {"0": 1, "1": 0}}, "merged into itself"),
        ({"moved": {"1": 13}}, "13 is no group"),  # 3 clusters, and a new one for each of 5 images twice over
        ({"moved": {"1": -2}}, "-2 is no group"),
        ({"rejected": [10**30]}, "is no group"),
        ({"names": {"999999999": "x"}}, "999999999 is no group"),
        ({"names": {"0": "caf\udce9"}}, "is not UTF-8"),
    ],
)
def test_edits_that_do_not_fit_are_refused(tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        read(tmp_path, **changes)


def test_two_columns_suffice_and_every_row_is_by_hand(tmp_path):
    labels = table(
        tmp_path, b'\xef\xbb\xbflabel,path\r\ncat,a.jpg\r\n,"e\rf.jpg"\r\n"\'=dog",\xe9.jpg\r\nx,./=b.jpg\r\n'
    )
    assert labels.names == ["cat", "x", "", "=dog", ""]
    assert labels.by_hand == [True, True, False, True, True]


@pytest.mark.parametrize(("cell", "line"), [(b";", b"\r\n"), (b"\t", b"\n"), (b",", b"\r")])
def test_what_spreadsheets_write(tmp_path, cell, line):
    labels = table(tmp_path, b"path,label|a.jpg,big cat|./=b.jpg,dog|".replace(b",", cell).replace(b"|", line))
    assert labels.names == ["big cat", "dog", "", "", ""]


@pytest.mark.parametrize(
    "data, said",
    [
        (b"path,name\na.jpg,cat\n", "no column label"),
        (b'{"a": "' + 200_000 * b"x" + b'"}', "is not a CSV file"),
        (b"path,label\nz.jpg,cat\n", "line 2: z.jpg is not in clusters.csv"),
        (b"path,label\na.jpg,cat\na.jpg,dog\n", "line 3: a.jpg has a row already"),
        (b"path,label,by_hand\na.jpg,cat,maybe\n", "by_hand is maybe"),
        (b"path,label\na.jpg,cat\n\xe9.jpg,b\xe9b\xe9\n", "line 3: the label is not UTF-8; save the table as UTF-8"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, data, said):
    with pytest.raises(UserError, match=said):
        table(tmp_path, data)


def test_what_is_written_reads_back(tmp_path):
    labels = read(tmp_path, names={"0": "=1+1", "1": 'a, "b"', "2": "ö"}, moved={"0": -1, "3": 0})
    write_labels(tmp_path / "labels.csv", CLUSTERING, labels)
    again = read_labels(tmp_path / "labels.csv", CLUSTERING)
    assert (again.names, again.by_hand) == (labels.names, labels.by_hand)
    with (tmp_path / "labels.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["path", "label", "cluster", "confidence", "by_hand"]
    assert rows[2] == ["./=b.jpg", "'=1+1", "0", "0.8", "false"]
    assert read_clusters(tmp_path / "labels.csv") == CLUSTERING


def test_a_list_of_clusters_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_clusters(tmp_path / "clusters.csv")
    (tmp_path / "clusters.csv").write_text("path,cluster,confidence\na,x,1\n")
    with pytest.raises(UserError, match="damaged"):
        read_clusters(tmp_path / "clusters.csv")


def test_what_a_clustering_left_out_has_no_name_until_it_is_moved(tmp_path):
    clustering = Clustering(PATHS, [-1, 0, 0, -1, 1], ["0", "0.8", "0.7", "0", "0.5"])
    path = tmp_path / "edits.json"
    names = {"0": "cat", "1": "dog"}
    path.write_text(json.dumps(EDITS | {"fingerprint": clustering.fingerprint, "names": names, "moved": {"3": 1}}))
    assert read_labels(path, clustering).names == ["", "cat", "cat", "dog", "dog"]
    table = tmp_path / "clusters.csv"
    table.write_text("path,cluster,confidence\na.jpg,-1,0.0\nb.jpg,0,0.5\n")
    assert read_clusters(table).clusters == [-1, 0]


@pytest.mark.parametrize("seed", range(8))
def test_edits_made_of_a_table_give_its_labels_again(tmp_path, seed):
    draw = random.Random(seed)
    clustering = Clustering(
        [f"{i}.png" for i in range(40)], [draw.choice([-1, 0, 1, 3]) for _ in range(40)], ["1"] * 40
    )
    names = [draw.choice(["", "a", "b", "c", "only here"][: 2 + seed % 4]) for _ in range(40)]
    labels = Labels(names, [draw.random() < 0.3 for _ in range(40)], [])
    edits = to_edits(clustering, labels)
    (tmp_path / "edits.json").write_text(edits.model_dump_json())
    assert read_labels(tmp_path / "edits.json", clustering).names == names
    moved = {int(image) for image in edits.moved}
    assert {i for i, by_hand in enumerate(labels.by_hand) if by_hand} <= moved  # what was set by hand stays so
    pairs = list(zip(clustering.clusters, names, strict=True))
    again = read_labels(tmp_path / "edits.json", clustering)
    assert not any(hand for i, hand in enumerate(again.by_hand) if not names[i] and not labels.by_hand[i])
    given = [[name for cluster, name in pairs if cluster == one and name] for one in (0, 1, 3)]
    assert [edits.names[str(one)] for one in (0, 1, 3)] == [max(sorted(set(own)), key=own.count) for own in given]


def test_images_without_a_label_wait_in_a_new_group_and_only_those_out_by_hand_are_out(tmp_path):
    clustering = Clustering([f"{i}.png" for i in range(7)], [0, 0, 0, 0, 1, -1, -1], ["1"] * 7)
    labels = Labels(["cat", "cat", "", "", "", "", ""], [False, False, False, True, False, False, True], [])
    edits = to_edits(clustering, labels)
    assert edits.names == {"0": "cat"} and edits.moved == {"2": 2, "3": -1, "6": -1}
    (tmp_path / "edits.json").write_text(edits.model_dump_json())
    again = read_labels(tmp_path / "edits.json", clustering)
    assert (again.names, again.by_hand) == (labels.names, labels.by_hand)
    assert to_edits(clustering, again) == edits


def test_a_control_character_in_a_name_is_a_space(tmp_path):
    assert read(tmp_path, names={"0": "a\x00b\x1b", "1": "\x7f"}).names[:3] == ["a b", "a b", ""]
    assert table(tmp_path, b"path,label\na.jpg,big\x08dog\n").names[0] == "big dog"
