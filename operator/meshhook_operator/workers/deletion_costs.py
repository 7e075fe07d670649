"""Which pods go first when there are too many: those that do the least. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshhook_operator.cluster.client import PodView

FIRST_TO_GO = -100


def changed_costs(
    pods: Sequence[PodView], running_by_host: Mapping[str, int], *, surplus: int
) -> dict[PodView, int | None]:
    """Return the pods whose deletion cost must change before `surplus` pods go.

    Only those that are to go are marked, so that hundreds of pods cost a few requests. A mark that
    is no longer right is taken back: its cost is None.

    Args:
        pods: of the Deployment.
        running_by_host: how many jobs each pod runs, by its name; a pod that is missing here has
            not reported and counts as idle.
        surplus: how many pods are to go.
    """
    by_work = sorted(pods, key=lambda pod: (running_by_host.get(pod.key.name, 0), pod.key.name))
    victims = set(by_work[: max(0, surplus)])
    changed: dict[PodView, int | None] = {}
    for pod in by_work:
        if pod in victims and pod.deletion_cost != FIRST_TO_GO:
            changed[pod] = FIRST_TO_GO
        elif pod not in victims and pod.deletion_cost == FIRST_TO_GO:
            changed[pod] = None
    return changed
