"""The pipeline: from a bucket or folder of labelled images to a registered classifier.

python flows/train.py run                                  # the synthetic sample
python flows/train.py run --data s3://bucket/prefix        # your images
python flows/train.py --config sweep configs/sweeps/cpu.json run --data FOLDER
"""

import secrets
from pathlib import Path
from typing import Any

import numpy as np
from metaflow import Config, FlowSpec, Parameter, card, current, project, resources, retry, step

from skinlib.execution.datastore import run_store
from skinlib.execution.hooks import backend_of, configured, mark_failed, parser, prepare  # noqa: F401 (Argo's hook)

# Heavy modules (torch, mlflow, matplotlib) are imported in the steps that use them: every task and every refresh of a
# card is a process of its own that loads this file.

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@project(name="skin_lesion")
@configured
class SkinLesionFlow(FlowSpec):
    """Train a benign/malignant classifier of skin lesions and register the best one.

    start -> ingest -> train (one branch per trial and fold) -> select -> evaluate -> register -> end
    """

    sweep = Config("sweep", default=str(CONFIGS / "sweeps/quick.json"), parser=parser("sweep"), help="the trials")
    compute = Config(
        "compute", default=str(CONFIGS / "compute/local.json"), parser=parser("compute"), help="where the GPU steps run"
    )
    data = Parameter("data", default="sample", help="s3://bucket/prefix or a folder; `sample` is synthetic")
    seed = Parameter("seed", default=0, help="of the split, the search and the training")
    validation_fraction = Parameter("validation-fraction", default=0.15, help="share of training images for validation")
    max_rejected = Parameter("max-rejected", default=0.01, help="largest share of unreadable images")
    sensitivity = Parameter("sensitivity", default=0.95, help="that the threshold must reach on validation images")
    group_by = Parameter("group-by", default="", help="columns of metadata.csv; default lesion_id, patient_id")
    source_column = Parameter("source-column", default="", help="a column of metadata.csv; default source")
    elsewhere = Parameter("elsewhere", default="", help="other labelled images, separated by commas")
    experiment = Parameter("experiment", default="skin-lesion", help="the MLflow experiment")
    model_name = Parameter("model-name", default="skin-lesion", help="the registered model")
    promote = Parameter("promote", default="auto", help="auto: if it beats the champion; never; always")

    @step
    def start(self) -> None:
        """Check everything that can be checked before time or money is spent, then open the run in MLflow."""
        from skinlib import config, progress
        from skinlib.data import listing, metadata, sample
        from skinlib.execution import hooks, provenance
        from skinlib.tracking import runs
        from skinlib.training import sweep

        options = {name: getattr(self, name) for name in config.RUN_OPTIONS}
        config.check_run_options(**options)
        hooks.check_remote(self.compute)
        trials, self.n_folds = sweep.trials_from(self.sweep, self.seed), sweep.folds_from(self.sweep)
        sweep.store_weights(trials, run_store(self))
        listed = listing.list_images(sample.locate(self.data, progress.printed("synthetic images made")))
        self.group_columns = metadata.group_columns(listed.metadata.names, self.group_by)
        self.sources = metadata.source_column(listed.metadata.names, self.source_column)
        for url in config.listed(self.elsewhere):
            listing.list_images(url, splits=("test",))
        self.trials = {trial.key: trial.model_dump() for trial in trials}
        self.branches = sweep.branches(self.trials, self.n_folds)
        self.branch_keys = list(self.branches)
        self.git_commit = provenance.git_commit()
        # A resumed run copies this artifact, and so finds its checkpoints and its MLflow runs again.
        self.run_key = f"{current.run_id}-{secrets.token_hex(4)}"
        # Last, so that no failure above leaves an empty run in MLflow.
        self.tracking = runs.start_run(
            self.experiment,
            self.run_key,
            name=f"{current.flow_name}/{current.run_id}",
            params={"data": provenance.public_name(self.data), **options, "trials": len(trials), "folds": self.n_folds},
            tags={"metaflow_run": f"{current.flow_name}/{current.run_id}"},
            git_commit=self.git_commit,
        )
        self.next(self.ingest)

    @card(type="blank", id="data")
    @resources(cpu=2, memory=8_000)
    @step
    def ingest(self) -> None:
        """Read, verify and pack every image once, search for duplicates, and set validation images or folds aside."""
        from skinlib import progress
        from skinlib.audit import baselines, findings, lesions, traces
        from skinlib.data import listing, metadata, packing, sample, split
        from skinlib.evaluation import metrics
        from skinlib.reporting import data_card

        store = run_store(self)
        listed = listing.list_images(sample.locate(self.data, progress.printed("synthetic images made")))
        manifest = packing.prepare(listed, store, self.max_rejected, progress.printed("images read"))
        packed = packing.open_packed(store, manifest.hash)
        pairs = lesions.search(packed, store, progress.printed("images compared"))
        audited = findings.audit_images(packed, pairs, self.group_columns)
        audited.refuse_conflicts()
        self.manifest, self.audit = manifest.summary(), audited.summary
        self.labels, self.groups = packed.labels, audited.groups
        self.twins, self.colours = audited.twins, audited.colours
        self.folds = split.folds(manifest, self.groups, self.n_folds, self.validation_fraction, self.seed)
        self.split = split.whole(self.folds, manifest)
        train, validation, test = self.split["train"], self.split["validation"], self.split["test"]
        used = np.union1d(train, validation)
        self.one_class_sources = metadata.one_class_sources(manifest.column(self.sources)[used], self.labels[used])
        # Trained and validated on the same images as the networks.
        self.baselines = baselines.held_out(packed, self.colours, self.folds, train, test, self.sources)
        self.standouts = traces.standouts(manifest, train, self.sources)
        scores = {name: metrics.auroc(self.labels[validation], of) for name, of in self.baselines["validation"].items()}
        shown = self.manifest, self.audit, packed, train, scores, self.standouts, self.data == "sample"
        data_card.show(current.card["data"], *shown)
        self.next(self.train, foreach="branch_keys")

    @card(type="blank", id="training", refresh_interval=5)
    @retry(times=2)
    @resources(gpu=1, cpu=4, memory=16_000)
    @step
    def train(self) -> None:
        """Train a trial on one fold. A divergence is a result; a killed process continues from its last checkpoint."""
        from skinlib.data.packing import open_packed
        from skinlib.evaluation.selection import against_baselines
        from skinlib.reporting.training_card import TrainingCard
        from skinlib.tracking.runs import TrialLog
        from skinlib.training import checkpoint, loop, slots, sweep
        from skinlib.training.trial import Trial

        self.trial_key, self.fold = self.branches[self.input]["trial"], self.branches[self.input]["fold"]
        fold = self.folds[self.fold - 1]
        trial = Trial.model_validate(self.trials[self.trial_key])
        store, data_hash = run_store(self), self.manifest["hash"]
        packed = open_packed(store, data_hash, np.union1d(fold["train"], fold["validation"]))
        key = checkpoint.checkpoint_key(self.run_key, self.input, data_hash, fold)
        sizes = {"train_images": len(fold["train"]), "validation_images": len(fold["validation"])}
        log = TrialLog(
            self.tracking,
            self.trial_key,
            name=self.input,
            training_key=key,
            params={**trial.model_dump(), "seed": self.seed, **sizes},
            tags={"fold": self.fold, "metaflow_task": current.pathspec, "data_hash": data_hash},
            git_commit=self.git_commit,
        )
        live = TrainingCard(current.card["training"], trial, self.fold, self.n_folds)
        backend, notice = backend_of(self.compute), current.get("spot_termination_notice")
        with slots.take_slot(len(self.branches) if backend.backend == "local" else 1) as slot:
            result = loop.train(
                sweep.with_stored_weights(trial, store),
                packed.images,
                packed.labels,
                fold["train"],
                fold["validation"],
                np.isin(packed.manifest.column(self.sources), self.one_class_sources),
                seed=self.seed,
                slot=slot,
                checkpoint=checkpoint.Checkpoint(store, key, notice=notice),
                is_retry=current.retry_count > 0,
                minutes=backend.timeout_minutes,
                on_epoch=live.update,
                on_checkpoint=log.send,
            )
        here = np.isin(self.split["validation"], fold["validation"])
        baselines = {name: of[here] for name, of in self.baselines["validation"].items()}
        above = against_baselines(self.labels[fold["validation"]], result.validation_probabilities, baselines)
        live.finish(result.status, result.reason, above)
        metrics = {"best_validation_auroc": result.validation_auroc, **above}
        log.finish(result.history, metrics, result.status, result.reason)
        # Two artifacts: `select` reads the result of every trial, but only the winner's weights.
        self.result, self.weights = result.summary(), result.weights
        self.next(self.select)

    @card(type="blank", id="leaderboard")
    @step
    def select(self, inputs: list[Any]) -> None:
        """Rank the trials by validation AUROC, keep the winner's weights, and set its temperature and threshold."""
        from skinlib.audit import shortcut
        from skinlib.evaluation import selection, threshold
        from skinlib.networks import ensemble
        from skinlib.reporting import leaderboard_card
        from skinlib.serving import settings
        from skinlib.training.checkpoint import checkpoint_folder
        from skinlib.training.result import over_folds

        self.merge_artifacts(inputs, exclude=["branch_keys", "trial_key", "fold", "result", "weights"])
        tasks = {key: sorted((t for t in inputs if t.trial_key == key), key=lambda t: t.fold) for key in self.trials}
        results = {key: over_folds([t.result for t in of], self.folds, self.labels) for key, of in tasks.items()}
        labels, groups = (values[self.split["validation"]] for values in (self.labels, self.groups))
        self.leaderboard = selection.leaderboard(self.trials, results, labels, groups, self.baselines["validation"])
        best_key = self.leaderboard["trial"][0]
        self.best_trial = {"key": best_key, **self.trials[best_key]}
        self.best_result, self.weights = results[best_key], ensemble.join([t.weights for t in tasks[best_key]])
        operation = threshold.operate(labels, self.best_result["validation_probabilities"], self.sensitivity)
        train = self.split["train"]
        colours = shortcut.fit(self.colours[train], self.labels[train])
        self.classifier = settings.settings(self.best_trial, operation, self.sensitivity, colours)
        histories = {key: result["history"] for key, result in results.items()}
        leaderboard_card.show(current.card["leaderboard"], self.leaderboard, histories)
        # Every trial's weights are artifacts now. A later `resume train` trains anew, with the code as it is then.
        run_store(self).delete(checkpoint_folder(self.run_key))
        self.next(self.evaluate)

    @card(type="blank", id="test")
    @resources(cpu=4, memory=8_000)
    @step
    def evaluate(self) -> None:
        """Export the winner as it will be served, and evaluate it, and only it, once on the held-out test images."""
        from skinlib import config, progress
        from skinlib.data.packing import open_packed
        from skinlib.evaluation.assessment import assess, assess_elsewhere
        from skinlib.execution.provenance import public_name, public_names, versions
        from skinlib.reporting import model_card, test_card, text, verdict
        from skinlib.serving.export import export_graph
        from skinlib.serving.graph import Graph

        store = run_store(self)
        packed = open_packed(store, self.manifest["hash"])
        test, synthetic = self.split["test"], self.data == "sample"
        unsupported = np.isin(packed.manifest.column(self.sources), self.one_class_sources)
        self.graph = export_graph(self.weights, self.classifier, packed.images, self.folds, unsupported)
        classifier = Graph(self.graph, threads=1)
        assessment = assess(classifier, packed, test, self.groups, self.twins, self.sources, self.baselines["test"])
        self.test_probabilities, self.test_metrics = assessment.probabilities, assessment.metrics
        self.test_report, self.stress = assessment.report, assessment.stress
        urls = config.listed(self.elsewhere)
        named = dict(zip(public_names(urls), urls, strict=True))
        self.elsewhere_reports = assess_elsewhere(classifier, named, store, progress.printed("images read"))
        self.verdict = verdict.verdict(self.test_report, self.elsewhere_reports, self.one_class_sources, synthetic)
        flow_run = f"{current.flow_name}/{current.run_id}"
        self.model_card = model_card.render(self, public_name(self.data), synthetic, flow_run, versions())
        title = text.named(self.best_trial["key"], self.n_folds)
        test_card.show(current.card["test"], assessment, title, self.verdict, self.elsewhere_reports, self.model_card)
        self.next(self.register)

    @step
    def register(self) -> None:
        """Register the winner, one version for each distinct result, promote it if earned, and end the MLflow run."""
        from skinlib.data.packing import open_packed
        from skinlib.evaluation.scores import flat_metrics, histograms
        from skinlib.tracking import promotion, registry, runs

        data_hash, test, synthetic = self.manifest["hash"], self.split["test"], self.data == "sample"
        packed = open_packed(run_store(self), data_hash, test)
        used = np.concatenate([self.split["train"], self.split["validation"]])
        self.registered_model = registry.register(
            self.tracking,
            self.experiment,
            self.run_key,
            promotion.model_name(self.model_name, synthetic, current.branch_name),
            flow_run=f"{current.flow_name}/{current.run_id}",
            graph=self.graph,
            weights=self.weights,
            settings=self.classifier,
            data_hash=data_hash,
            metrics=self.test_metrics,
            figures=flat_metrics(self.test_report),
            histograms=histograms(self.labels[test], self.test_probabilities),
            model_card=self.model_card,
            synthetic=synthetic,
            seen=packed.manifest.fingerprints[np.isin(self.groups, self.groups[used])],
        )
        above = self.test_report["all"]["baselines"]["colours"]
        contest = promotion.Contest(packed, self.groups, test, self.test_probabilities, above)
        self.promotion = promotion.decide(self.tracking, self.registered_model, self.promote, contest, current.username)
        runs.finish_run(self.tracking)
        self.next(self.end)

    @step
    def end(self) -> None:
        """Print the results and what to do next."""
        from skinlib.reporting.text import run_summary

        result = self.leaderboard, self.test_report, self.verdict, self.registered_model, self.promotion
        print(run_summary(*result, self.tracking["uri"]))


if __name__ == "__main__":
    prepare()
    SkinLesionFlow()
