import pytest

from slotwise.scheduler import events as ev
from tests.scheduler.driver import Driver


@pytest.fixture
def loaded() -> Driver:
    driver = Driver()
    driver.do(ev.PreloadRequested("m"))
    driver.ready()
    return driver
