CREATE TABLE experiment (
    id INTEGER PRIMARY KEY,
    account TEXT NOT NULL,
    worker TEXT NOT NULL,
    rule TEXT NOT NULL,
    seed TEXT NOT NULL,
    -- Units are kept whose hash ends in so many zero bits.
    level INTEGER NOT NULL DEFAULT 0,
    units INTEGER NOT NULL DEFAULT 0,
    since_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    UNIQUE (account, worker, rule, seed)
);
CREATE TABLE variant (
    id INTEGER PRIMARY KEY,
    experiment INTEGER NOT NULL REFERENCES experiment (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    -- How many of the units that are kept it should have by the shares that held when they came.
    expected REAL NOT NULL DEFAULT 0,
    UNIQUE (experiment, name)
);
CREATE TABLE exposure (
    experiment INTEGER NOT NULL REFERENCES experiment (id) ON DELETE CASCADE,
    unit INTEGER NOT NULL,
    variant INTEGER NOT NULL,
    -- 1 for a unit that saw another variant later.
    moved INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (experiment, unit)
) WITHOUT ROWID;
CREATE TABLE metric (
    id INTEGER PRIMARY KEY,
    experiment INTEGER NOT NULL REFERENCES experiment (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    UNIQUE (experiment, name)
);
CREATE TABLE outcome (
    experiment INTEGER NOT NULL REFERENCES experiment (id) ON DELETE CASCADE,
    metric INTEGER NOT NULL,
    unit INTEGER NOT NULL,
    sum REAL NOT NULL,
    times INTEGER NOT NULL,
    PRIMARY KEY (experiment, metric, unit)
) WITHOUT ROWID;
CREATE TABLE served (
    variant INTEGER NOT NULL REFERENCES variant (id) ON DELETE CASCADE,
    -- Minutes since the Unix epoch; 0 has everything.
    minute INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    latency BLOB NOT NULL,
    PRIMARY KEY (variant, minute)
) WITHOUT ROWID;
-- What was left out, for want of room.
CREATE TABLE dropped (count INTEGER NOT NULL);
INSERT INTO dropped (count) VALUES (0);
-- Up to where the cluster's log has been taken in.
CREATE TABLE position (identity TEXT NOT NULL, sequence INTEGER NOT NULL);
