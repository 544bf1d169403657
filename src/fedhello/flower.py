"""fedhello in your own Flower app: its strategy on the server, and its allocations on clients.

    from fedhello.flower import FedHello, arrays, load, prepare, register, save, with_lora

    model = with_lora(Net())                                     # task.py, at both ends
    strategy = FedHello(model, "fed-hello", proxy=loader)        # server_app.py, for FedAvg()
    register(app)                                                # client_app.py: a node says its budget
    allotted = prepare(model, msg)                               # for model.load_state_dict(...)
    model_record = allotted.arrays()                             # for ArrayRecord(model.state_dict())

Your ``train()``, your data and your metrics stay. It needs the extra: ``pip install 'fedhello[flower]'``.
"""

from fedhello.errors import MissingExtraError

try:
    import flwr as _flwr  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingExtraError("fedhello.flower needs Flower; run: pip install 'fedhello[flower]'") from error

from fedhello.network.flower_client import Allotted as Allotted
from fedhello.network.flower_client import arrays as arrays
from fedhello.network.flower_client import load as load
from fedhello.network.flower_client import prepare as prepare
from fedhello.network.flower_client import register as register
from fedhello.network.flower_client import save as save
from fedhello.network.flower_client import with_lora as with_lora
from fedhello.network.strategy import FedHello as FedHello

__all__ = ["Allotted", "FedHello", "arrays", "load", "prepare", "register", "save", "with_lora"]
