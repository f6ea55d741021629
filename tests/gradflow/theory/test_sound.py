"""Sound networks should be called sound: a third of those of ``bench-theory``, for later."""

from zlib import crc32

import pytest

from experiments.benchmarks import theory
from experiments.benchmarks.sound import SOUND
from tests.nn.conftest import quick_compilation as quick_compilation

DRAWS = 40
THIRD = [name for name in SOUND if crc32(name.encode()) % 3 == 2]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_of_a_third_of_the_sound_networks_few_initializations_raise_an_alarm():
    found = {name: theory.held(SOUND[name], DRAWS)["alarms"] for name in THIRD}
    assert max(found.values()) <= 0.1 * DRAWS, found
    assert sum(found.values()) <= 0.02 * DRAWS * len(found), found
