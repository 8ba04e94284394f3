"""An auth manager whose users may read some DAGs and not others, as FAB's and Keycloak's can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

#: DAGs whose ids begin so are nobody's but the admin's.
SECRET = "secret"


class PerDagAuthManager(SimpleAuthManager):
    def is_authorized_dag(
        self, *, user: SimpleAuthManagerUser, details: DagDetails | None = None, **asked: Any
    ) -> bool:
        if user.role != "admin" and (details is None or str(details.id).startswith(SECRET)):
            return False
        return super().is_authorized_dag(user=user, details=details, **asked)
