"""The pipeline: from a bucket or folder of labelled images to a registered classifier.

python flows/train.py run                                  # the synthetic sample
python flows/train.py run --data s3://bucket/prefix        # your images
python flows/train.py --config sweep configs/sweeps/cpu.json run --data FOLDER
"""

import os
import secrets
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Appended, not inserted: in a remote task the skinlib that travelled with the flow must win.
sys.path.append(str(ROOT))
# Metaflow runs exit hooks in a process that knows only this.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))

from metaflow import Config, FlowSpec, Parameter, card, current, exit_hook, project, resources, retry, step

from skinlib import compute
from skinlib.compute import mark_failed

# Heavy modules (torch, mlflow, matplotlib) are imported in the steps that use them: each task, and each refresh of
# a card, is a process of its own that loads this file.


# What `select` hands on of what every branch has; the winner's part it adds itself.
KEPT = [
    *("manifest", "audit", "labels", "groups", "twins", "colours", "split", "shortcut"),
    *("shortcut_validation", "trials", "git_commit", "run_key", "tracking"),
]


# Argo takes no name with a dot, and finds the function in this file; elsewhere Metaflow finds what can be imported.
ON_ERROR = mark_failed if "argo-workflows" in sys.argv else "skinlib.compute.mark_failed"


def checkpoints(run_key: str) -> str:
    """Where a run's trials keep their checkpoints, below the root of its datastore."""
    return f"skinlib/checkpoints/{run_key}"


@exit_hook(on_error=[ON_ERROR])
@compute.configured
@project(name="skin_lesion")
class SkinLesionFlow(FlowSpec):
    """Train a benign/malignant classifier of skin lesions and register the best.

    start -> ingest -> train (a branch for each trial) -> select -> evaluate -> register -> end
    """

    sweep = Config("sweep", default=str(ROOT / "configs/sweeps/quick.json"), help="the trials to train")
    compute = Config("compute", default=str(ROOT / "configs/compute/local.json"), help="where the GPU steps run")
    data = Parameter(
        "data",
        default="sample",
        help="s3://bucket/prefix or a folder, with train|test/benign|malignant in it; `sample` is synthetic",
    )
    seed = Parameter("seed", default=0, help="of the split, the search and the training")
    validation_fraction = Parameter(
        "validation-fraction", default=0.15, help="share of the training images to choose the best model with"
    )
    max_rejected = Parameter(
        "max-rejected", default=0.01, help="share of the images that may be unreadable before the run fails"
    )
    sensitivity = Parameter(
        "sensitivity",
        default=0.95,
        help="share of the malignant validation images that are to be called malignant: sets the threshold",
    )
    experiment = Parameter("experiment", default="skin-lesion", help="the MLflow experiment")
    model_name = Parameter("model-name", default="skin-lesion", help="the registered model")

    @step
    def start(self) -> None:
        """Check all that can be checked before time or money is spent, then open the run in MLflow."""
        from skinlib import console, dataset, sample, tracking
        from skinlib.sweep import trials_from

        dataset.check_options(self.seed, self.validation_fraction, self.max_rejected, self.sensitivity)
        compute.check_remote(self.compute)
        trials = trials_from(self.sweep, self.seed)
        if any(trial.weights != "none" for trial in trials):
            from skinlib import models

            for weights, architecture in {(trial.weights, trial.architecture) for trial in trials}:
                models.build(architecture, models.load_pretrained(weights, architecture))
        dataset.list_images(sample.locate(self.data, console.progress("synthetic images made")))
        self.trials = {trial.key: trial.model_dump() for trial in trials}
        self.trial_keys = list(self.trials)
        self.git_commit = compute.git_commit()
        # Resume clones this artifact, so that checkpoints and MLflow's runs are found again by it.
        self.run_key = f"{current.run_id}-{secrets.token_hex(4)}"
        # Last: nothing after it can fail and leave an empty run behind.
        self.tracking = tracking.start_run(
            self.experiment,
            self.run_key,
            name=f"{current.flow_name}/{current.run_id}",
            params={
                "data": self.data,
                "seed": self.seed,
                "validation_fraction": self.validation_fraction,
                "max_rejected": self.max_rejected,
                "sensitivity": self.sensitivity,
                "trials": len(trials),
            },
            tags={"metaflow_run": f"{current.flow_name}/{current.run_id}"},
            git_commit=self.git_commit,
        )
        self.next(self.ingest)

    @card(type="blank", id="data")
    @resources(cpu=2, memory=8_000)
    @step
    def ingest(self) -> None:
        """Read, verify and pack every image once, look for duplicates, and hold validation images back."""
        from skinlib import audit, console, dataset, evaluation, report, sample, shortcut

        store = compute.run_store(self)
        listing = dataset.list_images(sample.locate(self.data, console.progress("synthetic images made")))
        manifest = dataset.prepare(listing, store, self.max_rejected, console.progress("images read"))
        packed = dataset.open_packed(store, manifest.hash)
        audited = audit.audit(packed, console.progress("images compared"))
        audited.refuse_conflicts()
        self.manifest, self.audit = manifest.summary(), audited.to_dict()
        self.labels, self.groups, self.twins, self.colours = (
            packed.labels,
            audited.groups,
            audited.twins,
            audited.colours,
        )
        self.split = asdict(dataset.split(manifest, self.groups, self.validation_fraction, self.seed))
        # What colour alone tells, learnt from the same images as the networks and scored on the same.
        learnt, held_back = self.split["train"], self.split["validation"]
        self.shortcut = shortcut.fit(self.colours[learnt], self.labels[learnt])
        self.shortcut_validation = shortcut.probabilities(self.colours[held_back], self.shortcut)
        examples = learnt[:: max(1, len(learnt) // 24)][:24]
        report.ingest_card(
            current.card["data"],
            self.manifest,
            self.audit,
            packed.images[examples],
            packed.labels[examples],
            evaluation.auroc(self.labels[held_back], self.shortcut_validation),
            self.data == "sample",
        )
        self.next(self.train, foreach="trial_keys")

    @card(type="blank", id="training", refresh_interval=5)
    @retry(times=2)
    @resources(gpu=1, cpu=4, memory=16_000)
    @step
    def train(self) -> None:
        """Train one trial; a divergence is a result, a killed process goes on from its last checkpoint."""
        from skinlib import dataset, report, selection, tracking, training
        from skinlib.slots import take_slot
        from skinlib.sweep import Trial

        self.trial_key = self.input
        trial = Trial.model_validate(self.trials[self.trial_key])
        store = compute.run_store(self)
        packed = dataset.open_packed(store, self.manifest["hash"])
        log = tracking.TrialLog(
            self.tracking,
            self.trial_key,
            params={**trial.model_dump(), "seed": self.seed},
            tags={"metaflow_task": current.pathspec, "data_hash": self.manifest["hash"]},
            git_commit=self.git_commit,
        )
        view = report.TrainingCard(current.card["training"], trial.model_dump(), trial.epochs)
        # The data's hash too: `resume ingest` may find other images under the same run key.
        name = f"{self.trial_key}-{self.manifest['hash'][:12]}.pt"
        checkpoint = training.Checkpoint(store, f"{checkpoints(self.run_key)}/{name}")
        with take_slot() as slot:
            result = training.train(
                trial,
                packed.images,
                packed.labels,
                self.split["train"],
                self.split["validation"],
                seed=self.seed,
                slot=slot,
                checkpoint=checkpoint,
                on_epoch=view.update,
                on_checkpoint=log.send,
            )
        labels = self.labels[self.split["validation"]]
        above = selection.against_shortcut(labels, result.validation_probabilities, self.shortcut_validation)
        view.finish(result.status, result.reason, above)
        metrics = {"best_validation_auroc": result.validation_auroc, **above}
        log.finish(result.history, metrics, result.status, result.reason)
        # Apart from the rest: `select` reads every trial's result, but only the winner's weights.
        self.weights = result.weights
        self.result = result.summary()
        self.next(self.select)

    @card(type="blank", id="leaderboard")
    @step
    def select(self, inputs: list[Any]) -> None:
        """Rank the trials by validation AUROC, keep the winner's weights, and set its temperature and threshold."""
        from skinlib import calibration, evaluation, report, selection

        self.merge_artifacts(inputs, include=KEPT)
        results = {branch.trial_key: branch.result for branch in inputs}
        labels, groups = (values[self.split["validation"]] for values in (self.labels, self.groups))
        self.leaderboard = selection.leaderboard(self.trials, results, labels, groups, self.shortcut_validation)
        best_key = self.leaderboard["trial"][0]
        best = next(branch for branch in inputs if branch.trial_key == best_key)
        self.best_trial = {"key": best_key, **self.trials[best_key]}
        self.best_result = best.result
        self.weights = best.weights
        probabilities = best.result["validation_probabilities"]
        temperature = calibration.fit_temperature(labels, probabilities)
        # All that serving needs to know beside the weights.
        self.classifier = {
            "architecture": self.best_trial["architecture"],
            "image_size": self.best_trial["image_size"],
            "temperature": temperature,
            "threshold": evaluation.operating_threshold(
                labels, calibration.calibrate(probabilities, temperature), self.sensitivity
            ),
            "sensitivity": self.sensitivity,
            "shortcut": self.shortcut,
        }
        histories = {key: result["history"] for key, result in results.items()}
        report.select_card(current.card["leaderboard"], self.leaderboard, histories, selection.choice(self.leaderboard))
        self.next(self.evaluate)

    @card(type="blank", id="test")
    @resources(cpu=4, memory=8_000)
    @step
    def evaluate(self) -> None:
        """Score the winner, and nobody else, on the sealed test set: once a run."""
        from skinlib import (
            calibration,
            dataset,
            evaluation,
            model_card,
            models,
            report,
            saliency,
            shortcut,
            slots,
            stress,
        )

        workers = slots.limit_threads()
        packed = dataset.open_packed(compute.run_store(self), self.manifest["hash"])
        test = self.split["test"]
        images, labels = packed.images[test], self.labels[test]
        size, temperature, threshold = (self.classifier[name] for name in ("image_size", "temperature", "threshold"))
        network = models.restore(self.classifier["architecture"], self.weights)

        def predict(images: Any) -> Any:
            return calibration.calibrate(models.predict(network, images, size), temperature)

        uncalibrated = models.predict(network, images, size)
        self.test_probabilities = calibration.calibrate(uncalibrated, temperature)
        self.test_metrics = evaluation.binary_metrics(labels, self.test_probabilities, threshold)
        self.test_report = evaluation.report(
            labels,
            self.test_probabilities,
            threshold,
            groups=self.groups[test],
            uncalibrated=uncalibrated,
            shortcut_probabilities=shortcut.probabilities(self.colours[test], self.shortcut),
            twins=self.twins[test],
        )
        self.stress = stress.table(predict, images, labels, threshold, workers=workers)
        self.model_card = model_card.render(
            {
                "name": self.best_trial["key"],
                "synthetic": self.data == "sample",
                # Of a folder its name alone: where it lies on this machine is nobody's business.
                "url": self.data if "://" in self.data else Path(self.data).name,
                "manifest": self.manifest,
                "audit": self.audit,
                "split": self.split,
                "trial": self.trials[self.best_trial["key"]],
                "n_trials": len(self.trials),
                "result": self.best_result,
                "classifier": self.classifier,
                "report": self.test_report,
                "stress": self.stress,
                "commit": self.git_commit,
                "run": f"{current.flow_name}/{current.run_id}",
                "seed": self.seed,
                "versions": compute.versions(),
            }
        )
        examples = saliency.examples(labels, self.test_probabilities, threshold)
        called = self.test_probabilities[examples] >= threshold
        report.evaluate_card(
            current.card["test"],
            self.test_report,
            labels,
            self.test_probabilities,
            stress=self.stress,
            examples=examples,
            images=images[examples],
            heat=saliency.grad_cam(network, images[examples], size, called),
            title=self.best_trial["key"],
            model_card=self.model_card,
            synthetic=self.data == "sample",
        )
        self.next(self.register)

    @step
    def register(self) -> None:
        """Register the winner in MLflow, once a run however often this is repeated."""
        from skinlib import evaluation, registry, tracking

        figures = self.test_metrics | evaluation.figures(self.test_report)
        tracking.log_metrics(self.tracking, {f"test_{name}": value for name, value in figures.items()})
        self.registered_model = registry.register(
            self.tracking,
            self.model_name,
            self.run_key,
            weights=self.weights,
            config=self.classifier,
            data_hash=self.manifest["hash"],
            metrics=self.test_metrics,
            model_card=self.model_card,
            synthetic=self.data == "sample",
        )
        self.next(self.end)

    @step
    def end(self) -> None:
        """Say what came out and what to do with it, and clear the checkpoints away."""
        from skinlib import console, tracking

        tracking.finish_run(self.tracking)
        compute.run_store(self).delete(checkpoints(self.run_key))
        synthetic = self.data == "sample"
        print(
            console.summary(self.leaderboard, self.test_report, self.registered_model, self.tracking["uri"], synthetic)
        )


if __name__ == "__main__":
    SkinLesionFlow()
