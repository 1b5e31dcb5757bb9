"""A training step of every variant is one graph: ``torch.compile(fullgraph=True)`` without a state.

It runs in a process of its own: torch.compile and the shape checks that pytest switches on do not mix.
The backend traces forward and backward but generates no code, which takes seconds instead of minutes.
"""

import subprocess
import sys
from pathlib import Path

from tests.models.cases import VARIANTS

SCRIPT = """
import sys
import torch
import models
from tests.models.cases import CASES, SEGMENT, build, random_tokens

for name in sys.argv[1:]:
    for setting in ({"causal": True}, {"causal": False, "num_classes": 3}):
        torch.compiler.reset()  # all variants share the backbone's code, and it is compiled for a few of them only
        model = build(name, depth=1, **setting, **CASES[name].options)
        tokens = random_tokens(2, SEGMENT + 1)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        results = []
        for forward in (model, compiled):
            logits, state = forward(tokens)
            model.zero_grad()
            logits.square().sum().backward()
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            results.append([logits, *gradients])
        for plain, fast in zip(*results, strict=True):
            torch.testing.assert_close(plain, fast, rtol=1e-9, atol=1e-9)
    print("compiled", name)
"""


def test_a_training_step_is_one_graph() -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *VARIANTS],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.split() == [word for name in VARIANTS for word in ("compiled", name)]
