-- Says that every attempt of the history has one of the outcomes, which the check before this one saw
-- to already.
-- Locks: SHARE UPDATE EXCLUSIVE on meshhook.job_attempts and its partitions: nobody waits but other
-- migrations and VACUUM. Time at size: each attempt is read once, about half a second for 5 million.

alter table meshhook.job_attempts validate constraint job_attempts_outcome_check;
