"""What all tests share: a data folder of their own, and which of them run in one process where there are several."""

import os
from collections.abc import Iterator

import pytest


@pytest.hookimpl(tryfirst=True)  # xdist's own, which writes the groups into the names, comes after it
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files stay together; those that compute with llama.cpp are one group, so that no two of them do at once."""
    for item in items:
        computes = item.get_closest_marker("model") is not None
        item.add_marker(pytest.mark.xdist_group("model" if computes else item.nodeid.partition("::")[0]))


@pytest.fixture(scope="session", autouse=True)
def data_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that tests start looks at the keys of whoever runs them."""
    before = os.environ.get("XDG_DATA_HOME")
    os.environ["XDG_DATA_HOME"] = str(tmp_path_factory.mktemp("data"))
    yield
    del os.environ["XDG_DATA_HOME"]
    if before is not None:
        os.environ["XDG_DATA_HOME"] = before
