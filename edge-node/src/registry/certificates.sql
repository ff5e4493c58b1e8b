-- The registry's schema, version 2: certificates of the HTTPS listener. `private_key` is sealed with the node's
-- key; a row is never changed.
CREATE TABLE certificate (
    id          TEXT PRIMARY KEY,
    account     TEXT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    hosts       TEXT NOT NULL,
    chain       TEXT NOT NULL,
    private_key BLOB NOT NULL,
    expires_s   INTEGER NOT NULL,
    created_ms  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX certificate_by_account ON certificate (account);
