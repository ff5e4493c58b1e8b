-- The registry's schema, version 4: certificates that an ACME authority issues. What is secret is sealed with the
-- node's key. `id` names the certificate in use, which a name lacks until its first is there.
CREATE TABLE acme_account (
    directory   TEXT PRIMARY KEY,
    credentials BLOB NOT NULL,
    created_ms  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE acme_certificate (
    host        TEXT PRIMARY KEY,
    id          TEXT,
    directory   TEXT,
    chain       TEXT,
    private_key BLOB,
    from_s      INTEGER NOT NULL DEFAULT 0,
    expires_s   INTEGER NOT NULL DEFAULT 0,
    issued_ms   INTEGER NOT NULL DEFAULT 0,
    due_ms      INTEGER NOT NULL DEFAULT 0,
    failures    INTEGER NOT NULL DEFAULT 0,
    error       TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE acme_challenge (
    token       TEXT PRIMARY KEY,
    host        TEXT NOT NULL,
    kind        TEXT NOT NULL,
    answer      TEXT NOT NULL,
    created_ms  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
