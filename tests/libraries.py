"""What tests of other people's libraries have in common. These leave sockets to the garbage collector and use old
ways of pydantic, and none of our tests may."""

import gc
import os
import warnings
from collections.abc import Iterator

import pytest

# Else LiteLLM asks the network for prices at import.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

MARKS = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def what_they_left_open() -> Iterator[None]:
    """Goes here, and not in whichever test comes next."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(5):  # what goes may leave more
            gc.collect()
