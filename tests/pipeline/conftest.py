"""Fixtures that several files share."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.mlflow_view import addresses
from tests.services import BUCKET, s3


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 API for all tests of this process; its address."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: no store lies in a real S3 API")
    with s3(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture
def bucket(s3_server: str) -> str:
    """A URL that nothing is below yet."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables and nothing in them, to copy: making one takes seconds."""
    from mlflow import MlflowClient

    root = tmp_path_factory.mktemp("schema")
    MlflowClient(addresses.store_uri(None, root)).search_experiments()
    return root / "mlflow.db"
