"""Cards with a few values put in the place of others, as a careless editor or an attacker would."""

import copy

import numpy as np

WRONG = (None, [], {}, "x", -1, True, [None], {"min": "a"}, "1", 0, 10**400, [{}], {"a": None}, "../x", 3.5, [[1]])


def mutilated(content, seed):
    """A copy in which one to three values, at any depth, are wrong or gone."""
    rng = np.random.default_rng(seed)
    content = copy.deepcopy(content)
    for _ in range(rng.integers(1, 4)):
        node = content
        while isinstance(node, (dict, list)) and node:
            key = list(node)[rng.integers(len(node))] if isinstance(node, dict) else int(rng.integers(len(node)))
            if rng.random() >= 0.35 and isinstance(node[key], (dict, list)):
                node = node[key]
                continue
            if rng.random() < 0.2 and isinstance(node, dict):
                del node[key]
            else:
                node[key] = copy.deepcopy(WRONG[rng.integers(len(WRONG))])
            break
    return content
