import io

import pyarrow.parquet
import torch

from clustering.prediction import Prediction
from report.outputs import Columns, CsvTable, ParquetTable


def test_of_equal_probabilities_the_first_cluster_is_the_one_that_the_page_shows():
    probabilities = torch.full((3, 200), 0.005)
    probabilities[1, 150] = probabilities[1, 160] = 0.1
    prediction = Prediction(torch.zeros(3, 2), probabilities)
    rows = list(Columns(3).rows(["a", "b", "c"], prediction))
    assert [row[1::2] for row in rows] == [[0, 1, 2], [150, 160, 0], [0, 1, 2]]
    assert [row[1] for row in rows] == prediction.clusters.tolist()


def test_only_what_a_spreadsheet_opens_is_kept_from_being_a_formula():
    columns = Columns(names=["@home", "-ve"])
    prediction = Prediction(torch.zeros(2, 2), torch.tensor([[0.75, 0.25], [0.25, 0.75]]))
    files = io.BytesIO(), io.BytesIO()
    for kind, file in zip((CsvTable, ParquetTable), files, strict=True):
        table = kind(file, columns)
        table.write(["=a.jpg", "b.jpg"], prediction)
        table.close()
    assert files[0].getvalue().decode().splitlines()[1:] == ["./=a.jpg,'@home,0.75", "b.jpg,'-ve,0.75"]
    found = pyarrow.parquet.read_table(io.BytesIO(files[1].getvalue())).to_pydict()
    assert found == {"path": ["=a.jpg", "b.jpg"], "label": ["@home", "-ve"], "confidence": [0.75, 0.75]}
