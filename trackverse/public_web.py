"""yt-dlp's requests, kept to the addresses of the Internet: what strangers list must not reach the hosts of a lab."""

from __future__ import annotations

import functools
import ipaddress
import socket
import urllib.request
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from yt_dlp.networking._helper import create_connection
from yt_dlp.networking._urllib import HTTPHandler, UrllibRH
from yt_dlp.networking.exceptions import RequestError

# Gateways within a site, and what was once meant for sites, which Python takes for the Internet's.
LOCAL_NETWORKS = tuple(map(ipaddress.ip_network, ("64:ff9b:1::/48", "fec0::/10", "::/96")))
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


class PrivateAddressError(RequestError):  # type: ignore[misc]  # yt-dlp has no types
    """A RequestError that is not a network error, so that no extractor goes on after it."""


class PublicRH(UrllibRH):  # type: ignore[misc]
    """yt-dlp's own way to send requests (it wants the RH in the name), but only to public addresses.

    An address is checked before a request is sent, a redirected one too, and once more when the connection is there: a
    name may resolve to another address a moment later. What a proxy makes of a name is the proxy's to refuse.
    """

    RH_NAME = "urllib"
    _SUPPORTED_URL_SCHEMES = ("http", "https")

    def _create_instance(self, *args: Any, **kwargs: Any) -> Any:
        opener = super()._create_instance(*args, **kwargs)
        for handler in opener.handlers:
            if isinstance(handler, HTTPHandler):
                handler.do_open = functools.partial(_open, handler.do_open)
        opener.add_handler(_PublicAddresses())
        return opener


class _PublicAddresses(urllib.request.BaseHandler):
    """A urllib handler that sees every request before it is sent, those that follow a redirect too."""

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        check_public(request.full_url)
        return request

    https_request = http_request


def _open(
    do_open: Callable[..., Any],
    new_connection: Callable[..., HTTPConnection],
    request: urllib.request.Request,
    **options: Any,
) -> Any:
    """urllib's `do_open`, with connections that check where they lead unless that is to a proxy."""

    def new_public_connection(*args: Any, **kwargs: Any) -> HTTPConnection:
        connection = new_connection(*args, **kwargs)
        connection._create_connection = _connect  # type: ignore[attr-defined]
        return connection

    is_direct = request.host == urlsplit(request.full_url).netloc
    return do_open(new_public_connection if is_direct else new_connection, request, **options)


def _connect(address: tuple[str, int], *args: Any) -> socket.socket:
    connection: socket.socket = create_connection(address, *args)
    try:
        check_address(address[0], connection.getpeername()[0])
    except BaseException:
        connection.close()
        raise
    return connection


def check_public(url: str) -> None:
    """Raises PrivateAddressError if the host of a URL is, or resolves to, an address that is not of the Internet."""
    host = urlsplit(url).hostname or ""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return  # the request itself will say so; behind a proxy, the name may be known only there
    for *_, address in found:
        check_address(host, str(address[0]))


def check_address(host: str, address: str) -> None:
    """Raises PrivateAddressError if the IP address at which `host` was found is not of the Internet."""
    ip = _carried(ipaddress.ip_address(address.partition("%")[0]))
    if not ip.is_global or ip.is_multicast or any(ip in network for network in LOCAL_NETWORKS):
        raise PrivateAddressError(f"{host} is at {ip}, a private address (--allow_private lets it pass)")


def _carried(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that an IPv6 one stands for; else the address itself."""
    if ip.version == 4:
        return ip
    translated = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None
    return ip.ipv4_mapped or ip.sixtofour or translated or ip
