ALTER TABLE study ADD COLUMN beginning jsonb;
COMMENT ON COLUMN study.beginning IS 'what an evaluation knew when it began: going on, it takes the same decisions';
