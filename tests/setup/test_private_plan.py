import numpy as np
import pytest
import torch

import fedhello as fh
from fedhello.config.load import load_config
from fedhello.config.settings import sample_plan
from fedhello.model.forward import predictions
from fedhello.privacy.ledger import epsilon_of
from fedhello.runs.private_rounds import released_round

accounting = pytest.importorskip("dp_accounting")
SAMPLES = {"privacy.epsilon": 8.0, "privacy.unit": "sample", "train.clients_per_round": 2, "train.rounds": 4}


def test_the_noise_is_the_least_for_which_the_most_asked_client_keeps_to_the_budget():
    """ε of the head and of all steps is the accounting package's own figure, and the whole budget."""
    plan = sample_plan(load_config(None, ["privacy.epsilon=3", "privacy.unit=sample"]), smallest=20, times=7)
    how = plan.steps
    assert (how.release.rate, how.steps, plan.times) == (0.8, 1, 7)
    accountant = accounting.pld.PLDAccountant(value_discretization_interval=1e-3)
    accountant.compose(accounting.GaussianDpEvent(plan.head.noise))
    accountant.compose(accounting.PoissonSampledDpEvent(0.8, accounting.GaussianDpEvent(how.release.noise)), 7)
    found = accountant.get_epsilon(1e-5)
    assert 2.98 < found <= 3.0
    assert epsilon_of(plan.releases, 1e-5) == pytest.approx(found, rel=1e-9)
    assert epsilon_of([plan.head, how.of(3, rounds=7)], 1e-5) == pytest.approx(found, rel=1e-9)


@pytest.mark.usefixtures("place")
def test_a_clip_is_measured_on_the_servers_samples_or_given():
    """C is the median of ‖∂ℓ_i/∂B‖ over the last two blocks' B, computed here sample by sample by plain backward."""
    session = fh.prepare("tiny.yaml", SAMPLES | {"data.proxy": 0, "method.name": "gd-hla"})
    assert session.private.rounds is None
    state = fh.start(session).state
    found = session.private.steps.clip_of(released_round(session, state).method_state)
    model, data = session.model, session.server.validation
    model.write(state.adapter.tensors)
    trained = [name for name, block in model.block_of.items() if block in (1, 2) and "lora_B" in name]
    parameters = model.set_trainable(trained)
    model.module.eval()
    lengths = []
    for i in range(len(data)):
        one = predictions(model, data.batch([i]).to(model.device))
        gradients = torch.autograd.grad(torch.nn.functional.cross_entropy(one.z, one.y), parameters)
        lengths.append(torch.cat([g.flatten() for g in gradients]).norm().item())
    assert found == pytest.approx(np.median(lengths), rel=1e-3) and found > 1e-6

    given = fh.prepare("tiny.yaml", SAMPLES | {"privacy.update_clip": 0.25})
    assert given.private.steps.clip_of(released_round(given, fh.start(given).state).method_state) == 0.25


@pytest.mark.usefixtures("place")
def test_budgets_in_bytes_count_gradients_of_samples():
    words = SAMPLES | {"method.name": "gd-hla", "clients.tiers": [{"share": 1, "memory": "1GB"}]}
    costs = fh.prepare("tiny.yaml", words | {"train.batch_size": 8}).federation.costs[0]
    assert costs.copies == 14
