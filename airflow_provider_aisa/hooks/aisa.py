"""An Airflow connection becomes an AisaClient. Nothing else in the package reads a connection to AIsa."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook, mask_secret

from airflow_provider_aisa.core.gateway.models import DEFAULT_MODEL, SEEDREAM, family_served_by, find_model
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.exceptions import AisaError, InvalidConnection
from airflow_provider_aisa.hooks.connections import base_url_of, spellings, why_test_failed
from airflow_provider_aisa.provider_info import (
    CONNECTION_FIELDS,
    CONNECTION_TYPE,
    FIELD_BEHAVIOUR,
    HOOK_NAME,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import httpx
    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_aisa.core.gateway.client import AisaClient
    from airflow_provider_aisa.core.gateway.models import Family
    from airflow_provider_aisa.core.gateway.references import Attachment
    from airflow_provider_aisa.core.gateway.response import GenerationResponse
    from airflow_provider_aisa.core.gateway.settings import ConnectionSettings

#: Seconds that the Test button waits.
_TEST_TIMEOUT = 15.0


class AisaHook(BaseHook):
    """Authenticated calls to AIsa with the key of an Airflow connection.

    The connection (type ``aisa``): password is the API key; host is the base URL, empty for
    ``https://api.aisa.one/v1``; extras are ``timeout`` (300 s), ``max_retries`` (4), ``max_concurrency``
    (5), ``requests_per_minute`` (none), ``proxy`` and ``prices`` (USD per image by model).

    Every call raises :class:`~airflow_provider_aisa.exceptions.InvalidConnection` when the connection is
    missing or wrong. Calls share the process's limits for the key and are retried only where that cannot
    pay twice. To store what you pay for, use ``SeedreamGenerateOperator`` rather than ``generate_images``.

    :param aisa_conn_id: the connection's id.
    """

    conn_name_attr = "aisa_conn_id"
    default_conn_name = "aisa_default"
    conn_type = CONNECTION_TYPE
    hook_name = HOOK_NAME

    def __init__(self, aisa_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.aisa_conn_id = aisa_conn_id
        self._families: dict[str, Family | None] = {}

    @cached_property
    def settings(self) -> ConnectionSettings:
        """The connection, checked and typed."""
        try:
            connection = self.get_connection(self.aisa_conn_id)
        except AirflowNotFoundException:
            self._raise_missing()
        for secret in spellings(connection.password):
            mask_secret(secret)  # Before anything is read of it: an error must not show it either.
        settings = self._read(connection, connection.extra_dejson)
        for secret in settings.secrets:
            mask_secret(secret)
        return settings

    async def aget_settings(self) -> ConnectionSettings:
        """Return :attr:`settings` without blocking the event loop: a lookup on it can deadlock."""
        if "settings" not in self.__dict__:
            from airflow.providers.common.compat.connection import (
                get_async_connection,
                get_async_extra_dejson,
            )
            from asgiref.sync import sync_to_async

            try:
                connection = await get_async_connection(self.aisa_conn_id)
            except AirflowNotFoundException:
                self._raise_missing()
            # Airflow's lookup masks the password as it is written, line breaks included. Masking asks the
            # supervisor and waits: on the event loop that can deadlock, so it is done beside it.
            mask = sync_to_async(mask_secret)
            for secret in spellings(connection.password):
                await mask(secret)
            settings = self._read(connection, await get_async_extra_dejson(connection))
            for secret in settings.secrets:
                await mask(secret)
            self.__dict__["settings"] = settings
        return self.settings

    def get_conn(self) -> AisaClient:
        """Return a client for the connection's gateway. Close it, or use it as a context manager."""
        from airflow_provider_aisa.core.gateway.client import AisaClient

        return AisaClient(self.settings)

    def generate_images(
        self,
        prompt: str,
        *,
        size: str | None = None,
        n: int = 1,
        model: str = DEFAULT_MODEL,
        aspect_ratio: str | None = None,
        image_size: str | None = None,
        reference_images: Sequence[str] | str | None = None,
        extra_body: Mapping[str, Any] | None = None,
        aws_conn_id: str | None = "aws_default",
    ) -> GenerationResponse:
        """Send one billable request to any model. Links in the response are short-lived: download at once.

        :param prompt: the text to draw.
        :param size: ``WIDTHxHEIGHT`` in pixels, of a model that takes a size; None for its default.
        :param n: how many images; each is billed. A model that makes one image in a request takes no more.
        :param model: the model's id.
        :param aspect_ratio: of a model that takes one, such as ``16:9``.
        :param image_size: of a model that takes one, such as ``2K``.
        :param reference_images: S3 URIs or https URLs of what the model is to look at, where it takes some.
        :param extra_body: further fields of the request.
        :param aws_conn_id: the AWS connection that reads the reference images in S3.
        :raises InvalidRequest: nothing was sent.
        :raises OutcomeUnknown: no usable response came back; the images may have been billed.
        """
        unknown_as = self.family_of_unknown(model) if _is_unknown(model) else None
        request = _request(
            prompt,
            size=size,
            n=n,
            model=model,
            aspect_ratio=aspect_ratio,
            image_size=image_size,
            reference_images=reference_images,
            extra_body=extra_body,
            unknown_as=unknown_as or SEEDREAM,
        )
        with self.get_conn() as client:
            return client.generate(request, self._attachments(request, aws_conn_id))

    async def agenerate_images(
        self,
        prompt: str,
        *,
        size: str | None = None,
        n: int = 1,
        model: str = DEFAULT_MODEL,
        aspect_ratio: str | None = None,
        image_size: str | None = None,
        reference_images: Sequence[str] | str | None = None,
        extra_body: Mapping[str, Any] | None = None,
        aws_conn_id: str | None = "aws_default",
    ) -> GenerationResponse:
        """Do what :meth:`generate_images` does, without blocking the event loop."""
        from asgiref.sync import sync_to_async  # Only so is a connection's lookup answered from a thread.

        unknown_as = None
        if _is_unknown(model):
            await self.aget_settings()
            unknown_as = await sync_to_async(self.family_of_unknown)(model)
        request = _request(
            prompt,
            size=size,
            n=n,
            model=model,
            aspect_ratio=aspect_ratio,
            image_size=image_size,
            reference_images=reference_images,
            extra_body=extra_body,
            unknown_as=unknown_as or SEEDREAM,
        )
        await self.aget_settings()
        attachments = await sync_to_async(self._attachments)(request, aws_conn_id)
        async with self.get_conn() as client:
            return await client.agenerate(request, attachments)

    def list_models(self) -> list[dict[str, Any]]:
        """Return the models that the key may use, as the gateway lists them. Free.

        Each has an ``id``; ``object``, ``created``, ``owned_by`` and ``supported_endpoint_types`` are there
        when the gateway says them.
        """
        with self.get_conn() as client:
            return client.list_models()

    def family_of_unknown(self, model: str) -> Family | None:
        """Return by whose rules a model is asked that is not known here, by the gateway's list. Free.

        None when the list does not say, or cannot be had.
        """
        if model not in self._families:
            self._families[model] = self._look_up(model)
        return self._families[model]

    def _look_up(self, model: str) -> Family | None:
        try:
            listed = next((each for each in self.list_models() if each["id"] == model), {})
        except AisaError as e:
            self.log.warning("AIsa's list of models cannot be asked about %r: %s", model, e)
            return None
        family = family_served_by(listed.get("supported_endpoint_types", ()))
        if family is not None:
            self.log.warning("Model %r is asked like those of %s, as AIsa lists it.", model, family.name)
        return family

    def request(
        self,
        method: str,
        endpoint: str,
        *,
        json: object = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a request to any AIsa endpoint and return its 2xx response.

        :param method: such as ``"POST"``. GET, HEAD and OPTIONS are sent again after a lost response,
            others are not: they may have been billed.
        :param headers: further ones. Those that carry the key, name the host or say how the bytes travel are
            the hook's own and dropped here.
        :param endpoint: below the base URL (``"chat/completions"``) or from the gateway's root
            (``"/v1beta/models/…"``). Another host is refused: the key goes nowhere else.
        :raises AisaError: as for :meth:`generate_images`.
        """
        from airflow_provider_aisa.core.gateway.retries import Call

        call = Call(method, endpoint, json=json, params=params, headers=dict(headers or {}))
        with self.get_conn() as client:
            return client.send(call)

    async def arequest(
        self,
        method: str,
        endpoint: str,
        *,
        json: object = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Do what :meth:`request` does, without blocking the event loop."""
        from airflow_provider_aisa.core.gateway.retries import Call

        call = Call(method, endpoint, json=json, params=params, headers=dict(headers or {}))
        await self.aget_settings()
        async with self.get_conn() as client:
            return await client.asend(call)

    def test_connection(self) -> tuple[bool, str]:
        """Ask the gateway for its models, which is free; return whether the key works, and what was found.

        The text is short: Airflow shows it for five seconds.
        """
        from airflow_provider_aisa.core.gateway.client import AisaClient

        try:
            settings = self.settings
        except InvalidConnection as e:
            return False, self._without_id(e)
        try:
            quick = replace(settings, max_retries=0, timeout=min(settings.timeout, _TEST_TIMEOUT))
            with AisaClient(quick) as client:
                models = client.list_models()
        except AisaError as e:
            return False, why_test_failed(e, settings.base_url) or self._without_id(e)
        count = f"{len(models)} model{'' if len(models) == 1 else 's'}"
        found = (
            ""
            if any(model["id"] == DEFAULT_MODEL for model in models)
            else f", {DEFAULT_MODEL} not among them"
        )
        return True, f"The key works at {settings.base_url}: {count}{found}. Nothing was billed."

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the form's hidden fields, labels and placeholders, for Airflow 3.1 and below."""
        return {name.replace("-", "_"): value for name, value in FIELD_BEHAVIOUR.items()}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form's extra fields, for Airflow 3.1 and below."""
        from airflow_provider_aisa.hooks.form import widgets

        return widgets()

    def _attachments(self, request: ImageRequest, aws_conn_id: str | None) -> tuple[Attachment, ...]:
        """Return what is sent in place of a request's reference images."""
        if not request.reference_images:
            return ()
        from airflow_provider_aisa.core.references import attachments_of
        from airflow_provider_aisa.hooks.s3 import open_s3

        client, _ = open_s3(aws_conn_id)
        return attachments_of(request, client=client, settings=self.settings)

    def _read(self, connection: Connection, extras: Mapping[str, Any]) -> ConnectionSettings:
        from airflow_provider_aisa.core.gateway.settings import ConnectionSettings, unknown_extras

        if names := unknown_extras(extras):
            self.log.warning(
                "Connection %r has extras that mean nothing to AIsa: %s. Known: %s.",
                self.aisa_conn_id,
                ", ".join(names),
                ", ".join(CONNECTION_FIELDS),
            )
        return ConnectionSettings.parse(
            conn_id=self.aisa_conn_id,
            host=base_url_of(connection),
            api_key=connection.password,
            extras=extras,
        )

    def _without_id(self, error: AisaError) -> str:
        """Return the message for whoever pressed Test: Airflow tests under an id that it draws at random."""
        return str(error).replace(f"connection {self.aisa_conn_id!r}", "this connection")

    def _raise_missing(self) -> NoReturn:
        raise InvalidConnection(
            f"connection {self.aisa_conn_id!r} is not defined: create it in the UI (type AIsa), or with "
            f"airflow connections add {self.aisa_conn_id} --conn-type aisa --conn-password YOUR_KEY"
        ) from None


def _request(prompt: str, *, size: str | None, **fields: Any) -> ImageRequest:
    request = ImageRequest.parse(prompt=prompt, **(fields if size is None else {"size": size, **fields}))
    request.check_single()
    return request


def _is_unknown(model: object) -> bool:
    return isinstance(model, str) and find_model(model) is None
