"""One mapping of arrays for a model of any number of networks."""

import numpy as np

from skinlib.networks import ensemble

FIRST, SECOND = ({"conv.weight": np.full(3, n), "fc.bias": np.array(n)} for n in (1.0, 2.0))


def test_the_arrays_of_several_networks_are_named_by_their_fold() -> None:
    names = ["fold-1.conv.weight", "fold-1.fc.bias", "fold-2.conv.weight", "fold-2.fc.bias"]
    assert list(ensemble.join([FIRST, SECOND])) == names


def test_a_single_network_keeps_its_names() -> None:
    assert ensemble.join([FIRST]) == FIRST
    assert ensemble.members(FIRST) == [FIRST]


def test_members_come_back_in_the_order_of_their_folds() -> None:
    many = [FIRST, SECOND] * 6
    assert ensemble.members(ensemble.join(many)) == many
