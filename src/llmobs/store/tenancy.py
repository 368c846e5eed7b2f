"""The one row filter: what a caller may read of tables whose rows belong to clients."""

from typing import Any, TypeVar

from sqlalchemy import Delete, Select, Table, Update

from llmobs.domain.access import View

S = TypeVar("S", Select[Any], Update, Delete)


def visible(statement: S, table: Table, view: View) -> S:
    """The statement over those rows of the table that the view shows.

    Every statement on a client's rows passes through here; a row that belongs to nobody shows in
    EVERYTHING alone.
    """
    if view.clients is None:
        return statement
    return statement.where(table.c.client_id.in_(sorted(view.clients)))
