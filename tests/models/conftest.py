"""What the tests of models share with those of the nodes they are made of."""

from tests.nn.conftest import quick_compilation as quick_compilation
