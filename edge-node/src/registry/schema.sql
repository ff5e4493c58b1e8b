-- The registry's schema, version 1 (PRAGMA user_version). Times are milliseconds since the Unix
-- epoch; JSON columns hold what the API's types serialise to.

CREATE TABLE node (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    revision INTEGER NOT NULL
) STRICT;
INSERT INTO node (one, revision) VALUES (1, 0);

CREATE TABLE account (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    subdomain  TEXT UNIQUE,
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Only a token's hash is kept: who reads this file cannot use the API.
CREATE TABLE token (
    id         TEXT PRIMARY KEY,
    account    TEXT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    name       TEXT NOT NULL,
    sha256     BLOB NOT NULL,
    scopes     TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX token_by_account ON token (account);

CREATE TABLE worker (
    account     TEXT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    name        TEXT NOT NULL,
    tag         TEXT NOT NULL,
    workers_dev INTEGER NOT NULL,
    previews    INTEGER NOT NULL,
    settings    TEXT NOT NULL,
    created_ms  INTEGER NOT NULL,
    modified_ms INTEGER NOT NULL,
    PRIMARY KEY (account, name)
) STRICT, WITHOUT ROWID;

-- `meta` is the version without its modules and secrets; `secrets` is sealed with the node's key.
CREATE TABLE version (
    id      TEXT PRIMARY KEY,
    account TEXT NOT NULL,
    worker  TEXT NOT NULL,
    number  INTEGER NOT NULL,
    meta    TEXT NOT NULL,
    secrets BLOB,
    UNIQUE (account, worker, number),
    FOREIGN KEY (account, worker) REFERENCES worker (account, name) ON DELETE CASCADE
) STRICT;

CREATE TABLE blob (
    sha256 BLOB PRIMARY KEY,
    bytes  BLOB NOT NULL
) STRICT;

CREATE TABLE module (
    version  TEXT NOT NULL REFERENCES version (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    name     TEXT NOT NULL,
    kind     TEXT NOT NULL,
    sha256   BLOB NOT NULL REFERENCES blob (sha256),
    PRIMARY KEY (version, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX module_by_blob ON module (sha256);

CREATE TABLE deployment (
    sequence    INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT NOT NULL UNIQUE,
    account     TEXT NOT NULL,
    worker      TEXT NOT NULL,
    versions    TEXT NOT NULL,
    annotations TEXT NOT NULL,
    created_ms  INTEGER NOT NULL,
    FOREIGN KEY (account, worker) REFERENCES worker (account, name) ON DELETE CASCADE
) STRICT;
CREATE INDEX deployment_by_worker ON deployment (account, worker, sequence);

-- A route without a worker outlives any worker, so `worker` is no foreign key: deleting a worker
-- deletes its routes explicitly.
CREATE TABLE route (
    id      TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    pattern TEXT NOT NULL UNIQUE,
    worker  TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX route_by_worker ON route (account, worker);

CREATE TABLE schedule (
    account    TEXT NOT NULL,
    worker     TEXT NOT NULL,
    position   INTEGER NOT NULL,
    cron       TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (account, worker, position),
    FOREIGN KEY (account, worker) REFERENCES worker (account, name) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE namespace (
    id         TEXT PRIMARY KEY,
    account    TEXT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    title      TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    UNIQUE (account, title)
) STRICT, WITHOUT ROWID;
