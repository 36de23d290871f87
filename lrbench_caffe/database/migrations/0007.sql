-- The comments that psql shows with \d+ and \df+, in plain English. No data changes.

COMMENT ON DOMAIN title IS 'a name that people choose and search for';
COMMENT ON DOMAIN share IS 'a share of 1, for example an accuracy';
COMMENT ON DOMAIN confidence IS
    'computed from softmax outputs, which single precision can round to slightly more than 1';
COMMENT ON TABLE schema_version IS
    'every version of the schema that this database has had; the highest is the present one';
COMMENT ON TABLE framework IS 'the deep learning frameworks, for example Caffe 1.0.0';
COMMENT ON COLUMN network.prototxt IS 'the canonical prototxt, without data layers and comments';
COMMENT ON COLUMN network.hash IS 'the SHA-256 of prototxt, in hex';
COMMENT ON TABLE task IS 'the learning tasks: classification into a number of classes';
COMMENT ON TABLE dataset IS
    'the datasets; NULL for values that only reading all the data would give';
COMMENT ON COLUMN dataset.shape IS 'the shape of a sample: channels, height, width';
COMMENT ON COLUMN policy.text IS 'the canonical text, for example SIN2(k0=0.01, k1=0.06, l=2000)';
COMMENT ON TABLE origin IS
    'the databases in which trials were recorded first: this one (here), and those of imported trials';
COMMENT ON COLUMN origin.database IS
    'a random id of the database; it identifies trials that return by way of other databases';
COMMENT ON COLUMN trial.solver IS
    'the SolverParameter by Caffe''s field names, with batch_size and test_batch_size';
COMMENT ON COLUMN trial.attempt IS 'the number of times that the trial was started';
COMMENT ON COLUMN trial.resumed_at IS
    'the iteration that this attempt resumed from; NULL if it started from the beginning';
COMMENT ON COLUMN trial.blas IS
    'the BLAS library with its version and kernels; the last digits of a training depend on them';
COMMENT ON COLUMN trial.threads IS 'the number of threads that BLAS used';
COMMENT ON COLUMN trial.origin_id IS
    'the database that the trial was imported from; NULL if it was trained here';
COMMENT ON COLUMN trial.best_iteration IS
    '#Iterations of the paper: the evaluation with the highest Top-1, the earliest on a tie; set when the trial ends';
COMMENT ON COLUMN trial.best_top1 IS
    'Top-1 at best_iteration, copied here for the index trial_best';
COMMENT ON TABLE evaluation IS
    'one pass over the whole test set, recorded as soon as it is measured; NULL where there is no finite number';
COMMENT ON COLUMN evaluation.iteration IS 'the number of finished iterations';
COMMENT ON COLUMN evaluation.lr IS 'the learning rate of the next iteration';
COMMENT ON COLUMN evaluation.train_loss IS
    'the mean of the mini-batch losses since the last evaluation';
COMMENT ON COLUMN evaluation.class_confidence IS
    'the average confidence of each class; NULL for a class without a correct sample';
COMMENT ON COLUMN evaluation.resumed_at IS
    'the iteration of the snapshot that the training resumed from, after which batches have another order; NULL if it was not interrupted';
COMMENT ON COLUMN study.beginning IS
    'what an evaluation read from the database at its first start; with it, a resumed evaluation takes the same decisions';
COMMENT ON COLUMN study.stop_requests IS
    'requests to the program that runs the study: 1 stops it with a last snapshot, 2 at once';
COMMENT ON TABLE study IS 'named lists of trials';
COMMENT ON TABLE study_trial IS
    'the trials of a study; one that has not started is not in the table trial yet';
COMMENT ON VIEW result IS
    'one row for each trial, with the eight metrics of the paper at its best evaluation: ld, iterations (#Iterations), top1,
     top5, ac, cd, cdac, n_params (#Param)';
COMMENT ON FUNCTION learning IS
    'the settings of a solver without those that do not affect what is learnt';
COMMENT ON VIEW standing_of_trials IS 'the content of the table standing, computed from the trials';
COMMENT ON TABLE standing IS
    'the result of each policy over its seeds, by dataset, network and settings; triggers on trial keep it current, so that
     the best of a million trials are found at once';
COMMENT ON COLUMN standing.settings IS 'the settings of the solver, as learning() returns them';
COMMENT ON COLUMN standing.k0 IS 'the rate of a FIX policy; NULL for other policies';
COMMENT ON COLUMN standing.seeds IS
    'the number of finished trials; of several trials with the same seed only the latest counts';
COMMENT ON COLUMN standing.top1 IS
    'the mean of the trials'' best Top-1; top1_std is its sample standard deviation';

CREATE OR REPLACE FUNCTION keep_standing() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    datasets integer[];
    networks integer[];
    policies integer[];
BEGIN
    SELECT array_agg(DISTINCT dataset_id), array_agg(DISTINCT network_id), array_agg(DISTINCT policy_id)
        INTO datasets, networks, policies FROM changed WHERE TG_OP <> 'INSERT' OR state = 'finished';
    IF datasets IS NULL THEN
        RETURN NULL;
    END IF;
    -- Lock the datasets, so that each of several concurrent changes sees the result of the one before.
    PERFORM FROM dataset WHERE id = ANY (datasets) ORDER BY id FOR NO KEY UPDATE;
    DELETE FROM standing WHERE dataset_id = ANY (datasets) AND network_id = ANY (networks) AND policy_id = ANY (policies);
    INSERT INTO standing (dataset_id, network_id, task_id, policy_id, settings, k0, seeds, top1, top1_std, iterations)
        SELECT dataset_id, network_id, task_id, policy_id, settings, k0, seeds, top1, top1_std, iterations FROM standing_of_trials
        WHERE dataset_id = ANY (datasets) AND network_id = ANY (networks) AND policy_id = ANY (policies);
    RETURN NULL;
END $$;
