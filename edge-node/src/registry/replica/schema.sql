-- What the registry of a cluster's node has beside the tables of a single node's.

-- Replicated: which cluster this is, and what the key of its secrets must answer.
CREATE TABLE IF NOT EXISTS cluster (
    one       INTEGER PRIMARY KEY CHECK (one = 1),
    id        TEXT NOT NULL,
    key_check BLOB NOT NULL
) STRICT;

-- Of this node alone: which log it follows, and how far it has applied it.
CREATE TABLE IF NOT EXISTS replica (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    identity TEXT,
    applied  INTEGER NOT NULL
) STRICT;
INSERT OR IGNORE INTO replica (one, identity, applied) VALUES (1, NULL, 0);
