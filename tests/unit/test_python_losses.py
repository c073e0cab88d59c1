"""Divisions of a loss: those on the way to backward accumulate, those for a log say nothing."""

import pytest

from sim.inputs.python_calls import LOSS_OVER, from_calls
from sim.inputs.tree import plain_of


def divisors(text):
    found = from_calls(text, "train.py").entries.get(LOSS_OVER)
    return [plain_of(call)["0"] for call in found.items] if found else []


@pytest.mark.parametrize(
    "text",
    [
        "(loss / 8).backward()",
        "accelerator.backward(loss / 8)",
        "scaler.scale(loss / 8).backward()",
        "loss = model(**b).loss\nloss = loss / 8\nloss.backward()",
        "loss /= 8\nscaler.scale(loss).backward()",
        "scaled = out.loss / 8\nfabric.backward(scaled)",
        "self.loss = out.loss / 8\nself.loss.backward()",
        "def step(b):\n    return model(b).loss / 8, 1\nloss, n = step(b)\nloss.backward()",
        "def back(x):\n    x.backward()\nback(total_loss / 8)",
        "(F.cross_entropy(logits, labels) / 8).backward()",
        "(loss / 8 if late else loss).backward()",
    ],
)
def test_a_loss_that_is_divided_for_its_backward(text):
    assert divisors(text) == [8]


@pytest.mark.parametrize(
    "text",
    [
        "loss.backward()\nprint(running_loss / 100)",
        "loss.backward()\ntotal_loss += loss.item()\navg_loss = total_loss / 100",
        "def test():\n    loss = total_loss / 100\n    log(loss)\nloss = f()\nloss.backward()",
        "loss = ce_loss + aux_loss / 100\nloss.backward()",
        "loss.backward()\nrunning_loss /= 100",
    ],
)
def test_a_loss_that_is_divided_for_a_log(text):
    assert divisors(text) == []
