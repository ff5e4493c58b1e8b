// Deno's HTTP client asks for TLS keys; no worker has any.
(function () {
return { loadTlsKeyPair: () => undefined };
})();
