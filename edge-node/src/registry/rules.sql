-- The registry's schema, version 3: the rules of workers. `overlay` is what the node adds to a document; `versions`
-- lists the ids of the versions that rules send requests to.
CREATE TABLE rules (
    account     TEXT NOT NULL,
    worker      TEXT NOT NULL,
    document    TEXT NOT NULL,
    overlay     TEXT NOT NULL,
    versions    TEXT NOT NULL,
    modified_ms INTEGER NOT NULL,
    PRIMARY KEY (account, worker),
    FOREIGN KEY (account, worker) REFERENCES worker (account, name) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
