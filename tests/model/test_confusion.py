"""Confusion matrices against sklearn, and what is made of them by hand."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from fedhello.model.confusion import ConfusionMatrix
from fedhello.model.evaluation import evaluate, logits

LABELS = ("a", "b", "c", "d")
TRUE = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
PREDICTED = np.array([0, 1, 1, 1, 0, 2, 2, 0, 1])


def test_a_matrix_and_its_scores_are_those_of_sklearn():
    found = ConfusionMatrix.of(TRUE, PREDICTED, LABELS)
    assert np.array_equal(found.matrix(), confusion_matrix(TRUE, PREDICTED, labels=range(4)))
    assert (found.samples, found.cells[:2]) == (9, ((0, 0, 1), (0, 1, 2)))
    expected = precision_recall_fscore_support(TRUE, PREDICTED, labels=range(3), zero_division=0.0)
    scores = [(one.precision, one.recall, one.f1, one.samples) for one in found.per_class[:3]]
    assert np.allclose(np.array(scores).T, np.array(expected))
    assert [one.predicted for one in found.per_class] == [3, 4, 2, 0]


def test_a_class_without_samples_and_predictions_has_no_scores():
    last = ConfusionMatrix.of(TRUE, PREDICTED, LABELS).per_class[3]
    assert (last.label, last.samples, last.recall, last.precision, last.f1) == ("d", 0, None, None, None)


def test_mistakes_come_largest_first():
    assert ConfusionMatrix.of(TRUE, PREDICTED, LABELS).mistakes == ((0, 1, 2), (1, 0, 1), (2, 0, 1), (2, 1, 1))


def test_the_accuracy_at_another_mix_weighs_the_recalls():
    found = ConfusionMatrix.of(TRUE, PREDICTED, LABELS)
    assert found.accuracy_at([3, 2, 4, 0]) == pytest.approx((TRUE == PREDICTED).mean())
    assert found.accuracy_at([1, 0, 3, 0]) == pytest.approx((1 / 3 + 3 * 0.5) / 4)
    assert found.accuracy_at([0, 1, 0, 9]) == 0.5, "a class that was not tested does not count"
    assert found.accuracy_at([0, 0, 0, 2]) is None


def test_it_is_counted_from_the_pass_that_scores(tiny_model, random_examples):
    model, data = tiny_model(), random_examples(samples=40)
    found = evaluate(model, data)
    predicted = logits(model, data).argmax(dim=1).numpy()
    assert np.array_equal(found.confusion.matrix(), confusion_matrix(data.labels, predicted, labels=range(3)))
    assert np.trace(found.confusion.matrix()) == round(found.accuracy * found.samples)
    assert found.confusion.labels == tuple(name for _, name in model.labels)
