import copy
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from fedhello.client.calibration import calibrate
from fedhello.client.fisher import block_scores
from fedhello.errors import ConfigError
from fedhello.model.evaluation import (
    METRICS,
    Evaluation,
    evaluate,
    evaluate_personal,
    logits,
    pooled_features,
    register_metric,
    weighted_mean,
)
from fedhello.model.forward import predictions


def test_a_language_model_is_scored_by_token(speaker, dialogues):
    found = evaluate(speaker, dialogues)
    nll, right, tokens = 0.0, 0, 0
    for i in range(len(dialogues)):
        ids, a = torch.from_numpy(dialogues.tokens[i]).long(), dialogues.answers[i]
        with torch.inference_mode():
            z = speaker.module(input_ids=ids[None]).logits[0, a - 1 : -1].log_softmax(dim=1)
        nll -= float(z.gather(1, ids[a:, None]).sum())
        right += int((z.argmax(dim=1) == ids[a:]).sum())
        tokens += len(ids) - a
    assert found.loss == pytest.approx(nll / tokens, rel=1e-5)
    assert found.accuracy == right / tokens
    assert found.more == {"perplexity": pytest.approx(math.exp(nll / tokens), rel=1e-5)}
    assert found.samples == 7


def test_fisher_scores_of_a_language_model_square_the_gradient_of_each_response(speaker, dialogues):
    expected = np.zeros(3)
    speaker.module.eval()
    for i in range(len(dialogues)):
        names = [name for name, block in speaker.block_of.items() if block is not None]
        parameters = speaker.set_trainable(names)
        found = predictions(speaker, dialogues.batch(np.array([i])))
        log_p = -torch.nn.functional.cross_entropy(found.z, found.y, reduction="sum")
        for name, g in zip(sorted(names), torch.autograd.grad(log_p, parameters), strict=True):
            expected[speaker.block_of[name]] += float(g.double().square().sum())
    assert np.allclose(block_scores(speaker, dialogues), expected / 7, rtol=1e-6, atol=0)


def test_calibration_knows_how_long_responses_are(speaker):
    short, long = (calibrate(speaker, policies=["keep"], answer=n) for n in (2, 10))
    shape = (4, 20)
    assert short.at(shape).outside < long.at(shape).outside
    assert short.at(shape, [shape]).flops_outside < long.at(shape, [shape]).flops_outside


def test_f1_is_the_mean_over_classes(tiny_model, random_examples):
    model, data = tiny_model(), random_examples(samples=40)
    found = evaluate(model, data)
    predicted = logits(model, data).argmax(dim=1).numpy()
    assert found.more["macro_f1"] == pytest.approx(f1_score(data.labels, predicted, average="macro", zero_division=0.0))
    assert found.more["micro_f1"] == pytest.approx(f1_score(data.labels, predicted, average="micro"))


def test_a_decoders_features_are_those_that_its_logits_are_made_of(tiny_decoder, random_examples):
    model, data = tiny_decoder(), random_examples(samples=9)
    h = pooled_features(model, data)
    assert h.shape == (9, 16)
    z = h @ model.logits_layer.weight.detach().T
    assert torch.allclose(z, logits(model, data), atol=1e-5)


def test_the_mean_of_evaluations_is_weighted():
    one, other = Evaluation(0.5, 1.0, 10, {"macro_f1": 0.4}), Evaluation(1.0, 3.0, 30, {"macro_f1": 0.8})
    mean = weighted_mean([one, other], [1.0, 3.0], 40)
    assert mean == Evaluation(0.875, 2.5, 40, {"macro_f1": pytest.approx(0.7)})


@pytest.mark.parametrize("copied", [False, True])
def test_logits_of_a_head_with_large_weights_are_exact_under_autocast(copied, tiny_model, random_examples):
    """Sums of terms a thousand times as large as they are: bf16, with 8 bits, has nothing of them left."""
    model = tiny_model()
    if copied:
        model = copy.deepcopy(model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        W = 1000 * torch.randn(3, 8)
    model.write({model.head_tensor_name("weight"): W, model.head_tensor_name("bias"): torch.zeros(3)})
    data = random_examples()
    with torch.autocast("cpu", torch.bfloat16):
        h, z = pooled_features(model, data), logits(model, data)
    assert torch.allclose(z, h @ W.T, rtol=1e-5, atol=1e-3 * float(z.abs().max()))
    assert not torch.allclose((h.bfloat16() @ W.T.bfloat16()).float(), h @ W.T, atol=1e-3 * float(z.abs().max()))


@pytest.fixture
def registered():
    yield lambda function: register_metric("of-this-test", function)
    METRICS.table.pop("of-this-test", None)


def test_metrics_from_outside_see_all_predictions(registered, tiny_model, random_examples):
    model, samples = tiny_model(), random_examples(samples=12)
    registered(lambda z, y: {"sum": z.sum(), "right": int((z.argmax(dim=1) == y).sum())})
    found, z = evaluate(model, samples, ["of-this-test"]), logits(model, samples)
    assert found.more["of-this-test/sum"] == pytest.approx(float(z.sum()))
    assert found.more["of-this-test/right"] == found.accuracy * 12
    # Of personal heads it is the mean over them, each on its own classes.
    registered(lambda z, y: float(z.isfinite().sum(dim=1).double().mean()))
    heads = {k: model.read(model.head_names) for k in (0, 1)}
    whose = {0: (0, 1), 1: (0, 1, 2)}
    sizes = [int(np.isin(samples.labels, classes).sum()) for classes in whose.values()]
    found = evaluate_personal(model, samples, heads, whose, ["of-this-test"])
    assert found.more["of-this-test"] == pytest.approx((2 * sizes[0] + 3 * sizes[1]) / sum(sizes))


@pytest.mark.parametrize("decoder", [False, True])
def test_personal_heads_share_one_pass_and_score_as_the_model_with_each(
    tiny_model, tiny_decoder, random_examples, decoder
):
    model = tiny_decoder() if decoder else tiny_model()
    samples, passes = random_examples(samples=30), []
    model.block_modules()[0].register_forward_hook(lambda *_: passes.append(1))
    drawn = torch.Generator().manual_seed(3)
    heads = {
        k: {name: torch.randn(value.shape, generator=drawn) for name, value in model.read(model.head_names).items()}
        for k in range(5)
    }
    own = model.read(model.head_names)
    everything = dict.fromkeys(heads, tuple(range(model.num_labels)))
    found = evaluate_personal(model, samples, heads, everything)
    assert len(passes) == 1  # of one batch
    assert all(torch.equal(value, own[name]) for name, value in model.read(model.head_names).items())
    each = []
    for head in heads.values():
        model.write(head)
        each.append(evaluate(model, samples))
    assert found.loss == pytest.approx(np.mean([one.loss for one in each]), rel=1e-5)
    assert found.accuracy == pytest.approx(np.mean([one.accuracy for one in each]))


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda z, y: "good", "of-this-test is a str"),
        (lambda z, y: {"a": float("inf")}, "of-this-test/a=inf"),
        (lambda z, y: z, "of-this-test is a Tensor"),
        (lambda z: 1.0, "it raised TypeError"),
    ],
)
def test_a_metric_that_is_no_number_is_refused(registered, tiny_model, random_examples, function, sentence):
    registered(function)
    with pytest.raises(ConfigError, match=sentence):
        evaluate(tiny_model(), random_examples(), ["of-this-test"])
