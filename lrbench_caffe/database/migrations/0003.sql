ALTER TABLE trial DROP CONSTRAINT trial_state;
ALTER TABLE trial ADD CONSTRAINT trial_state
    CHECK (state IN ('running', 'finished', 'diverged', 'pruned', 'interrupted', 'failed'));
ALTER TABLE study ADD COLUMN stop_requests integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN study.stop_requests IS 'to the program that runs it: 1 ends it politely, 2 at once';
