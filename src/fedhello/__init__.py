"""fedhello: fine-tune one foundation model across clients with unequal memory, compute and network.

    import fedhello as fh

    result = fh.run("my.yaml", {"train.rounds": 5}, callbacks=[fh.EarlyStopping(patience=3)])
    result.summary.final, result.rounds.to_pandas()
    result.predict(["a text"], probabilities=True)

These are the public names; everything else is private and may change. Each is imported at its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedhello.api import load_run as load_run
    from fedhello.api import plan as plan
    from fedhello.api import prepare as prepare
    from fedhello.api import resume as resume
    from fedhello.api import rounds as rounds
    from fedhello.api import run as run
    from fedhello.api import save as save
    from fedhello.api import start as start
    from fedhello.client.loss import register_loss as register_loss
    from fedhello.comparison.compare import compare as compare
    from fedhello.config.read import load_config as load_config
    from fedhello.config.schema import Config as Config
    from fedhello.data.partition import register_partition as register_partition
    from fedhello.errors import CallbackError as CallbackError
    from fedhello.errors import ClientsError as ClientsError
    from fedhello.errors import ConfigError as ConfigError
    from fedhello.errors import DataError as DataError
    from fedhello.errors import EngineError as EngineError
    from fedhello.errors import FedhelloError as FedhelloError
    from fedhello.errors import MissingExtraError as MissingExtraError
    from fedhello.errors import ModelError as ModelError
    from fedhello.errors import OutOfReachError as OutOfReachError
    from fedhello.errors import PrivacyError as PrivacyError
    from fedhello.errors import QuorumError as QuorumError
    from fedhello.errors import RunFolderError as RunFolderError
    from fedhello.errors import UpdateError as UpdateError
    from fedhello.method import Method as Method
    from fedhello.methods import METHODS as METHODS
    from fedhello.model.confusion import ConfusionMatrix as ConfusionMatrix
    from fedhello.model.evaluation import Evaluation as Evaluation
    from fedhello.model.evaluation import register_metric as register_metric
    from fedhello.network.consent import Consent as Consent
    from fedhello.network.federation import join as join
    from fedhello.network.federation import make_client_key as make_client_key
    from fedhello.network.federation import make_server_keys as make_server_keys
    from fedhello.network.federation import serve as serve
    from fedhello.plugins import register_method as register_method
    from fedhello.report.page import write_comparison as write_comparison
    from fedhello.report.plan import Plan as Plan
    from fedhello.report.run_page import write_report as write_report
    from fedhello.results.comparison import Comparison as Comparison
    from fedhello.results.comparison import load_comparison as load_comparison
    from fedhello.results.overview import RunOverview as RunOverview
    from fedhello.results.overview import list_runs as list_runs
    from fedhello.results.overview import run_overview as run_overview
    from fedhello.results.per_client import ClientScores as ClientScores
    from fedhello.results.prediction import Prediction as Prediction
    from fedhello.results.rounds import Rounds as Rounds
    from fedhello.results.run import RunResult as RunResult
    from fedhello.results.run import TrainedRun as TrainedRun
    from fedhello.results.trained import RunEvaluation as RunEvaluation
    from fedhello.runs.backup import Backup as Backup
    from fedhello.runs.backup import backup as backup
    from fedhello.runs.backup import restore as restore
    from fedhello.runs.callbacks import Callback as Callback
    from fedhello.runs.callbacks import EarlyStopping as EarlyStopping
    from fedhello.runs.console import Progress as Progress
    from fedhello.runs.loop import RoundRecord as RoundRecord
    from fedhello.runs.loop import RunStart as RunStart
    from fedhello.runs.recorders import CsvFile as CsvFile
    from fedhello.runs.recorders import JsonLinesFile as JsonLinesFile
    from fedhello.runs.recorders import MLflow as MLflow
    from fedhello.runs.recorders import TensorBoard as TensorBoard
    from fedhello.runs.recorders import WandB as WandB
    from fedhello.runs.status import BestScore as BestScore
    from fedhello.runs.status import ClientStatus as ClientStatus
    from fedhello.runs.status import ConnectedClient as ConnectedClient
    from fedhello.runs.status import Status as Status
    from fedhello.runs.summary import Summary as Summary
    from fedhello.session import Session as Session
    from fedhello.setup.inventory import doctor as doctor
    from fedhello.setup.inventory import model_path as model_path
    from fedhello.setup.inventory import models as models
    from fedhello.setup.starter import Starter as Starter
    from fedhello.setup.starter import init as init
    from fedhello.state import ClientReport as ClientReport
    from fedhello.state import Release as Release
    from fedhello.state import RoundReport as RoundReport
    from fedhello.state import RunState as RunState
    from fedhello.strategy import AggregationContext as AggregationContext
    from fedhello.strategy import AggregationResult as AggregationResult
    from fedhello.strategy import AllocationContext as AllocationContext
    from fedhello.types import Adapter as Adapter
    from fedhello.types import Allocation as Allocation
    from fedhello.types import Budget as Budget
    from fedhello.types import Client as Client
    from fedhello.types import Federation as Federation
    from fedhello.types import NoisySteps as NoisySteps
    from fedhello.types import Rejection as Rejection
    from fedhello.types import Task as Task
    from fedhello.types import Update as Update

_WHERE = {
    "fedhello.api": "load_run plan prepare resume rounds run save start",
    "fedhello.client.loss": "register_loss",
    "fedhello.comparison.compare": "compare",
    "fedhello.config.read": "load_config",
    "fedhello.config.schema": "Config",
    "fedhello.data.partition": "register_partition",
    "fedhello.errors": "CallbackError ClientsError ConfigError DataError EngineError FedhelloError "
    "MissingExtraError ModelError OutOfReachError PrivacyError QuorumError RunFolderError UpdateError",
    "fedhello.method": "Method",
    "fedhello.methods": "METHODS",
    "fedhello.model.confusion": "ConfusionMatrix",
    "fedhello.model.evaluation": "Evaluation register_metric",
    "fedhello.network.consent": "Consent",
    "fedhello.network.federation": "join make_client_key make_server_keys serve",
    "fedhello.plugins": "register_method",
    "fedhello.report.page": "write_comparison",
    "fedhello.report.plan": "Plan",
    "fedhello.report.run_page": "write_report",
    "fedhello.results.comparison": "Comparison load_comparison",
    "fedhello.results.overview": "RunOverview list_runs run_overview",
    "fedhello.results.per_client": "ClientScores",
    "fedhello.results.prediction": "Prediction",
    "fedhello.results.rounds": "Rounds",
    "fedhello.results.run": "RunResult TrainedRun",
    "fedhello.results.trained": "RunEvaluation",
    "fedhello.runs.backup": "Backup backup restore",
    "fedhello.runs.callbacks": "Callback EarlyStopping",
    "fedhello.runs.console": "Progress",
    "fedhello.runs.loop": "RoundRecord RunStart",
    "fedhello.runs.recorders": "CsvFile JsonLinesFile MLflow TensorBoard WandB",
    "fedhello.runs.status": "BestScore ClientStatus ConnectedClient Status",
    "fedhello.runs.summary": "Summary",
    "fedhello.session": "Session",
    "fedhello.setup.inventory": "doctor model_path models",
    "fedhello.setup.starter": "Starter init",
    "fedhello.strategy": "AggregationContext AggregationResult AllocationContext",
    "fedhello.state": "ClientReport Release RoundReport RunState",
    "fedhello.types": "Adapter Allocation Budget Client Federation NoisySteps Rejection Task Update",
}
_MODULES = {name: module for module, names in _WHERE.items() for name in names.split()}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'fedhello' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
