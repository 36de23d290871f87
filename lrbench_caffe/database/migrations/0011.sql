-- A journal on another machine does not bring back a trial that was deleted.

CREATE TABLE deleted_trial (
    id uuid CONSTRAINT deleted_trial_pkey PRIMARY KEY,
    deleted_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE deleted_trial IS
    'the trials that were trained here and deleted; a journal that still has rows of one does not bring it back';
