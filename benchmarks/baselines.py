"""What a job's result has to be measured against: naive baselines on the very samples that the job is evaluated on.

    python benchmarks/baselines.py examples/lstm-forecast.yaml --period 141
    python benchmarks/baselines.py examples/gpt-pydoc.yaml

Forecasting: the last value, the last period, the training mean. Language models: the entropy of single tokens and of
pairs (Witten-Bell smoothing). Classification: logistic regression, on the numbers or on a bag of words. Sounds: what was said in
the training sound that is nearest when time is warped (Sakoe and Chiba 1978).
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from quick_train import IN_PROCESS, all_rows
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from orchestrator import data, sdk
from orchestrator.data.preparations.windows import last_value_forecast, seasonal_forecast
from orchestrator.models.objectives.ctc import edit_distance

MANY_FEATURES = 1000
"""From here on logistic regression is tried with more regularization only."""


def forecasting(evaluation: dict, period: int) -> dict[str, float]:
    past, future = evaluation["past"], evaluation["future"]
    horizon = future.shape[1]
    forecasts = {
        "last_value": last_value_forecast(past, horizon),
        "seasonal": seasonal_forecast(past, horizon, period),
        "training_mean": np.zeros_like(future),
    }
    return {
        f"{name}_{measure}": float(function(forecast - future))
        for name, forecast in forecasts.items()
        for measure, function in (("mse", lambda e: (e**2).mean()), ("mae", lambda e: np.abs(e).mean()))
    }


def language(train: dict, evaluation: dict, vocabulary: int, causal: bool) -> dict[str, float]:
    """Nats a token."""
    seen = train["tokens"][:, 1:].ravel() if causal else train["tokens"].ravel()
    told = evaluation["tokens"][:, 1:].ravel() if causal else evaluation["tokens"].ravel()
    counts = np.bincount(seen, minlength=vocabulary) + 1.0
    unigram = counts / counts.sum()
    found = {"unigram_entropy": float(-np.log(unigram[told]).mean())}
    if causal:
        before, after = train["tokens"][:, :-1].ravel(), train["tokens"][:, 1:].ravel()
        pairs, times = np.unique(before.astype(np.int64) * vocabulary + after, return_counts=True)
        followers = np.bincount(pairs // vocabulary, minlength=vocabulary)
        total = np.bincount(before, minlength=vocabulary)
        asked_before, asked = evaluation["tokens"][:, :-1].ravel(), told
        key = asked_before.astype(np.int64) * vocabulary + asked
        place = np.minimum(np.searchsorted(pairs, key), len(pairs) - 1)
        count = np.where(pairs[place] == key, times[place], 0)
        weight = followers[asked_before]
        chance = (count + np.maximum(weight, 1) * unigram[asked]) / (
            total[asked_before] + np.maximum(weight, 1)
        )
        found["bigram_entropy"] = float(-np.log(chance).mean())
    return found


def classification(train: dict, evaluation: dict, vocabulary: int | None) -> dict[str, float]:
    def numbers(rows: dict) -> np.ndarray:
        if "tokens" not in rows:
            name = next(n for n in ("features", "signal", "image") if n in rows)
            return rows[name].reshape(len(rows[name]), -1)
        real = np.arange(rows["tokens"].shape[1])[None, :] < rows["length"][:, None]
        sample = np.repeat(np.arange(len(real)), real.sum(axis=1))
        bags = np.zeros((len(real), vocabulary), dtype=np.float32)
        np.add.at(bags, (sample, rows["tokens"][real]), 1.0)
        return bags

    if "categories" in train and "features" not in train:
        scale = OneHotEncoder(handle_unknown="ignore")
        fit, told = scale.fit_transform(train["categories"]), scale.transform(evaluation["categories"])
    else:
        fit, told = numbers(train), numbers(evaluation)
        scale = TfidfTransformer(sublinear_tf=True) if "tokens" in train else StandardScaler()
        fit, told = scale.fit_transform(fit), scale.transform(told)
    best: dict[str, float] = {"logistic_regression_accuracy": 0.0}
    many = fit.shape[1] > MANY_FEATURES and "tokens" not in train
    # the best on the evaluation set: an upper bound for this baseline
    for strength in (0.001, 0.01, 0.1) if many else (0.1, 1.0, 10.0, 100.0):
        model = LogisticRegression(C=strength, max_iter=2000).fit(fit, train["label"])
        accuracy = float(model.score(told, evaluation["label"]))
        if accuracy > best["logistic_regression_accuracy"]:
            best = {"logistic_regression_accuracy": accuracy}
            if len(model.classes_) == 2:
                chance = model.predict_proba(told)[:, 1]
                best["logistic_regression_auroc"] = float(roc_auc_score(evaluation["label"], chance))
    largest = np.bincount(train["label"].astype(int)).argmax()
    return best | {"largest_class_accuracy": float((evaluation["label"] == largest).mean())}


def nearest_by_warping(train: dict, evaluation: dict, templates: int = 1000) -> np.ndarray:
    """Of the first training sounds, the one nearest to each of the evaluation's (B, C, T)."""
    others_SNC = train["signal"][:templates].transpose(2, 0, 1)
    nearest = []
    for one_TC in evaluation["signal"].transpose(0, 2, 1):
        squares_TSN = (one_TC**2).sum(1)[:, None, None] + (others_SNC**2).sum(2)
        products_TSN = np.tensordot(one_TC, others_SNC, axes=(1, 2))
        apart_TSN = np.sqrt(np.maximum(0, squares_TSN - 2 * products_TSN))
        way_SN = np.cumsum(apart_TSN[0], axis=0)
        for apart_SN in apart_TSN[1:]:
            before_SN, way_SN = way_SN, np.empty_like(way_SN)
            way_SN[0] = before_SN[0] + apart_SN[0]
            for step in range(1, len(way_SN)):
                shortest = np.minimum(np.minimum(before_SN[step], before_SN[step - 1]), way_SN[step - 1])
                way_SN[step] = shortest + apart_SN[step]
        nearest.append(way_SN[-1].argmin())
    return np.array(nearest)


def written(train: dict, evaluation: dict) -> dict[str, float]:
    nearest = nearest_by_warping(train, evaluation)
    said, guessed = (
        [row[:length].tolist() for row, length in zip(rows["target"], rows["target_length"], strict=True)]
        for rows in (evaluation, train)
    )
    edits = sum(edit_distance(guessed[near], text) for near, text in zip(nearest, said, strict=True))
    return {"nearest_sound_cer": edits / sum(len(text) for text in said)}


def baselines(job: str, period: int = 24, overrides: tuple[str, ...] = ()) -> dict[str, float]:
    """Name -> value, lower is better but for accuracies and AUROC."""
    plan = sdk.make_plan(job, overrides=(*IN_PROCESS, *overrides))
    prepared = data.prepare(plan)
    train, evaluation = all_rows(plan, prepared, "train"), all_rows(plan, prepared, "eval")
    match plan.job.objective.kind:
        case "forecasting":
            return forecasting(evaluation, period)
        case "causal_lm" | "masked_lm" as kind:
            return language(train, evaluation, prepared.dims["vocabulary"], kind == "causal_lm")
        case "classification" | "binary" as kind:
            found = classification(train, evaluation, prepared.dims.get("vocabulary"))
            if kind == "classification" and "signal" in train:
                label = train["label"][nearest_by_warping(train, evaluation)]
                found["nearest_sound_accuracy"] = float((label == evaluation["label"]).mean())
            return found
        case "ctc":
            return written(train, evaluation)
        case kind:
            raise SystemExit(f"no baseline for objective {kind}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job")
    parser.add_argument("--period", type=int, default=24, help="rows of a season")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    given = parser.parse_args()
    print(json.dumps({"job": given.job, **baselines(given.job, given.period, tuple(given.overrides))}))


if __name__ == "__main__":
    main()
