"""What became of the images of a search's data set."""

from __future__ import annotations

from nicegui import ui

from nas.core.data_account import DataAccount, account_sentences
from server.dashboard.elements import definition_list, div, heading, notice, text


def draw_data(account: DataAccount | None) -> None:
    """The account of the data; nothing before a worker has read them."""
    if account is None:
        return
    with div("card stack"):
        heading("Data", 2)
        if account.warnings:
            notice("warn", "Mind this when you read the results", list(account.warnings))
        text(" ".join(account_sentences(account)))
        definition_list([("Content hash", account.content_hash[:16])])
        with ui.expansion("Images by class").props("dense"):
            _draw_classes(account)
        if account.skipped:
            with ui.expansion(f"Skipped images ({account.skipped_count})").props("dense"):
                for skipped in account.skipped:
                    text(f"{skipped.where}: {skipped.reason}", "small")
                if account.skipped_count > len(account.skipped):
                    text(f"and {account.skipped_count - len(account.skipped)} more", "small muted")


def _draw_classes(account: DataAccount) -> None:
    with div("scroll"), div("plain", "table"):
        with div("", "tr"):
            for title in ("Class", *account.splits):
                text(title, tag="th")
        for at, name in enumerate(account.class_names):
            with div("", "tr"):
                text(name, tag="td")
                for split in account.splits.values():
                    text(str(split.by_class[at]), "num", "td")
