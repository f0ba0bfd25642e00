"""The connection to MLflow: which server or database to use, and errors as sentences.

Each task takes the URI, including a password, from its own MLFLOW_TRACKING_URI. If that is unset, it takes the URI
that the flow run recorded, which has no password. The first task then takes MLflow's default, mlflow.db in the working
directory.
"""

import fcntl
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from skinlib.config import variables
from skinlib.errors import TrackingError, without_credentials

# How long to wait while another process writes to a SQLite database. MLflow waits for 5 seconds.
_LOCKED_SECONDS, _BRIEFLY_LOCKED_SECONDS = 60, 5
# MLflow waits for four minutes, which is right at the end of a training, but too long at its start and in its epochs.
_BRIEF = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
# It logs the traceback of each error of a database, which becomes a sentence here.
logging.getLogger("mlflow.store.db.utils").addFilter(lambda record: not record.exc_info)


def check() -> str:
    """Check within seconds that MLflow answers and accepts the credentials; create a SQLite database if it is missing.

    Returns:
        The tracking URI as given, without credentials.

    Raises:
        TrackingError: MLflow does not answer or refuses, or the URI is neither a server's nor a database's.
    """
    uri = _locate(None)
    database = _sqlite_path(uri)
    if database:
        _create_database(database)
    else:
        with connect(brief=True) as client:
            client.search_experiments(max_results=1)
    return without_credentials(_given(None))


@contextmanager
def connect(recorded: str | None = None, brief: bool = False) -> Iterator[MlflowClient]:
    """Yield a client, turn MLflow's errors into sentences, and leave the environment as it was.

    Args:
        recorded: the URI to use if MLFLOW_TRACKING_URI is unset.
        brief: give up within ten seconds, unless MLflow's own variables say otherwise.

    Raises:
        TrackingError: MLflow does not answer or refuses.
    """
    uri = _locate(recorded)
    database = _sqlite_path(uri)
    if database and not database.exists():
        raise TrackingError(
            f"The MLflow database {database} is not on this machine; set MLFLOW_TRACKING_URI to a server "
            "that all tasks reach."
        )
    # MLflow takes these only from the environment. The link that it prints when a run ends shows the password.
    quiet = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    wanted = quiet | (_BRIEF if brief else {})
    seconds = _BRIEFLY_LOCKED_SECONDS if brief else _LOCKED_SECONDS
    uri = f"{uri}?timeout={seconds}" if database else uri
    # MLflow's registry creates its own client, which uses a database in the working directory by default.
    values = {"MLFLOW_TRACKING_URI": uri} | {key: os.environ.get(key) or value for key, value in wanted.items()}
    try:
        with variables(values):
            if database:
                _keep_files_next_to(database, seconds)
            yield MlflowClient(tracking_uri=uri)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, ImportError, OSError) as error:
        # Without the cause, whose message may contain the password.
        raise TrackingError(_sentence(uri, error)) from None


def files_address(uri: str) -> str | None:
    """Return where the files of new experiments are to be kept: next to a SQLite database, else None."""
    database = _sqlite_path(uri)
    return (database.absolute().parent / "mlruns").as_uri() if database else None


@contextmanager
def storing(address: str) -> Iterator[None]:
    """Turn the errors of an artifact store into a sentence.

    Raises:
        TrackingError: files cannot be stored there.
    """
    try:
        yield
    except Exception as error:  # Each store raises its own errors.
        raise TrackingError(
            f"Files cannot be stored in MLflow's artifact store {without_credentials(address)} "
            f"({without_credentials(str(error)).strip().rstrip('.')}); give this machine write access to it, or "
            "change the address in the server and rename the experiment in MLflow, which keeps the address."
        ) from None


@contextmanager
def unless_exists() -> Iterator[None]:
    """Ignore that something to be created exists already, perhaps since a moment ago."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def is_missing(error: MlflowException) -> bool:
    """Return whether MLflow does not know the model, version or alias that was asked for."""
    return error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def _given(recorded: str | None) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or recorded or "sqlite:///mlflow.db"


def _locate(recorded: str | None) -> str:
    uri = _given(recorded)
    if "://" not in uri and not uri.startswith("databricks"):
        raise TrackingError(
            f"MLFLOW_TRACKING_URI is {uri.rpartition('@')[2]!r}, neither a server nor a database; set it to "
            "something like http://localhost:5000 or sqlite:///mlflow.db."
        )
    database = _sqlite_path(uri)
    if database and {"%", "?"} & set(str(database.absolute())):
        raise TrackingError(
            f"MLflow cannot use {database.absolute()}, since it reads % and ? in its path as codes; rename "
            "the folder, or set MLFLOW_TRACKING_URI to sqlite:////FOLDER/mlflow.db."
        )
    return f"sqlite:///{database.absolute()}" if database else uri


def _sqlite_path(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///").split("?")[0]) if uri.startswith("sqlite:///") else None


def _create_database(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Because MLflow itself would try for two minutes.
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA schema_version")
        folder = os.open(path.parent, os.O_RDONLY)
    except (OSError, sqlite3.Error) as error:
        raise TrackingError(
            f"The MLflow database {path} cannot be opened ({error}); correct MLFLOW_TRACKING_URI."
        ) from error
    try:
        # Processes that create the tables at the same time break each other, and MLflow's client does not lock.
        fcntl.flock(folder, fcntl.LOCK_EX)
        with connect() as client:
            client.search_experiments(max_results=1)
    finally:
        os.close(folder)


def _keep_files_next_to(database: Path, seconds: int) -> None:
    """Correct the addresses of files in a database that was moved or copied together with its project.

    MLflow records absolute ones, and would write to the folder of the old project.
    """
    here = files_address(f"sqlite:///{database}")
    columns = {
        "experiments": "artifact_location",
        "runs": "artifact_uri",
        "logged_models": "artifact_location",
        "model_versions": "storage_location",
    }
    with closing(sqlite3.connect(database, timeout=seconds)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if not tables.issuperset(columns):
            return  # MLflow is about to create them, or says that they are too old.
        # Only addresses that `files_address` gave end like this; MLflow's own and those of users are kept.
        moved = "SELECT artifact_location FROM experiments WHERE artifact_location LIKE 'file:%/mlruns'"
        for (old,) in connection.execute(f"{moved} AND artifact_location != ?", [here]).fetchall():
            with connection:
                for table, column in columns.items():
                    below = f"WHERE substr({column} || '/', 1, {len(old) + 1}) = ?"
                    # The names are constants of this file.
                    update = f"UPDATE {table} SET {column} = ? || substr({column}, {len(old) + 1}) {below}"  # noqa: S608
                    connection.execute(update, [here, f"{old}/"])


def _sentence(uri: str, error: Exception) -> str:
    where, text = f"MLflow at {without_credentials(uri)}", without_credentials(str(error))
    if getattr(error, "error_code", "") in ("UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED"):
        return (
            f"{where} refuses the credentials; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN, to an account that may write there."
        )
    if text.startswith("API request to http"):
        return f"{where} does not answer; start the server, or correct MLFLOW_TRACKING_URI."
    if "disk is full" in text:
        return f"{where} has no room on its disk; make room there."
    if "mlflow db upgrade" in text:
        return (
            f"{where} was created by another version of MLflow; copy the database, then run "
            "`mlflow db upgrade` with its URI."
        )
    # SQLAlchemy's text has the database's own words in a line of their own.
    words = re.search(r"^\(\w+\.\w+Error\) (.+)", text, re.MULTILINE)
    reason = words[1] if words else re.split(r"\s*\n|\. ", text.strip())[0].rstrip(".;:")
    return f"{where} fails ({reason}); check that MLFLOW_TRACKING_URI names an MLflow 3 server or database."
