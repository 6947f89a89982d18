"""The data set of the trials here, and one thread for all of them."""

from collections.abc import Iterator

import pytest
import torch

from reid.data.dataset import ReidData
from tests.reid import tiny


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in a trial on a CPU; sums are added up in another order with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_data() -> ReidData:
    return tiny.tiny_data()
