from functools import partial

import pyarrow.parquet as pq
import pytest
from asked import stones, train_in


@pytest.fixture
def train(tmp_path):
    return partial(train_in, tmp_path)


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    """A model that tells stones apart."""
    folder = tmp_path_factory.mktemp("classifier")
    pq.write_table(stones(120), folder / "stones.parquet", row_group_size=40)
    return train_in(
        folder,
        {
            "model": {"family": "mlp", "size": "debug"},
            "objective": {"kind": "classification"},
            "data": {
                "train": {"kind": "parquet", "path": "stones.parquet"},
                "eval": {"kind": "split", "fraction": 0.25},
                "columns": {"features": ["weight", "size"], "categories": ["place"], "label": "class"},
                "transforms": [
                    {"kind": "normalize", "tensor": "features", "per": "element"},
                    {"kind": "encode", "tensor": "categories"},
                    {"kind": "encode", "tensor": "label"},
                ],
            },
            "training": {
                "max_steps": 40,
                "global_batch_size": 16,
                "evaluate_every": 20,
                "optimizer": {"learning_rate": 0.02},
            },
            "checkpoint": {"every_steps": 20},
        },
    )
