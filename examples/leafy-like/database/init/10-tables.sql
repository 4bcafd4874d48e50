CREATE EXTENSION pgcrypto;

CREATE TABLE gardener (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    password text NOT NULL  -- as crypt() makes it
);

CREATE TABLE session (
    token_hash bytea PRIMARY KEY,
    gardener_id bigint NOT NULL REFERENCES gardener ON DELETE CASCADE,
    ends_at timestamptz NOT NULL
);

CREATE TABLE note (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gardener_id bigint NOT NULL REFERENCES gardener ON DELETE CASCADE,
    text text NOT NULL CHECK (length(text) BETWEEN 1 AND 2000),
    written_at timestamptz NOT NULL DEFAULT now()
);
