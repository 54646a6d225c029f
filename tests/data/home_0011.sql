BEGIN TRANSACTION;
CREATE TABLE agents (
	name VARCHAR(64) NOT NULL, 
	owner VARCHAR(120) NOT NULL, 
	instance VARCHAR(64) NOT NULL, 
	profile_id VARCHAR(16) NOT NULL, 
	profile JSON NOT NULL, 
	versions JSON NOT NULL, 
	created_at DOUBLE NOT NULL, 
	seen_at DOUBLE NOT NULL, 
	CONSTRAINT pk_agents PRIMARY KEY (name)
);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0011');
CREATE TABLE artifacts (
	job_id VARCHAR(32) NOT NULL, 
	arch_id VARCHAR(16) NOT NULL, 
	name VARCHAR(200) NOT NULL, 
	seq INTEGER NOT NULL, 
	space VARCHAR(120) NOT NULL, 
	genes JSON NOT NULL, 
	blob VARCHAR(64) NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	media_type VARCHAR(120) NOT NULL, 
	report JSON NOT NULL, 
	CONSTRAINT pk_artifacts PRIMARY KEY (job_id, arch_id, name), 
	CONSTRAINT fk_artifacts_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
CREATE TABLE audit (
	id INTEGER NOT NULL, 
	at DOUBLE NOT NULL, 
	owner VARCHAR(120) NOT NULL, 
	token_id VARCHAR(16), 
	address VARCHAR(64), 
	action VARCHAR(64) NOT NULL, 
	target VARCHAR(200) NOT NULL, 
	detail JSON NOT NULL, 
	CONSTRAINT pk_audit PRIMARY KEY (id)
);
INSERT INTO "audit" VALUES(1,1796000000.0,'local',NULL,NULL,'submit device','f5fd40c1d0e0','{"name": "this-machine"}');
INSERT INTO "audit" VALUES(2,1796000000.0,'local',NULL,NULL,'submit device','22802b5e5df8','{"name": "layered"}');
INSERT INTO "audit" VALUES(3,1796000000.0,'local',NULL,NULL,'submit search','5fa9ae1658ba','{"name": "whole"}');
INSERT INTO "audit" VALUES(4,1796000000.0,'local',NULL,NULL,'submit search','187ee1b755ab','{"name": "cut"}');
INSERT INTO "audit" VALUES(5,1796000000.0,'local',NULL,NULL,'submit device','df1c297bf405','{"name": "waiting"}');
CREATE TABLE devices (
	name VARCHAR(64) NOT NULL, 
	job_id VARCHAR(32) NOT NULL, 
	profile_id VARCHAR(16), 
	profile JSON, owner VARCHAR(120) DEFAULT 'local' NOT NULL, 
	CONSTRAINT pk_devices PRIMARY KEY (name), 
	CONSTRAINT fk_devices_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id)
);
INSERT INTO "devices" VALUES('this-machine','f5fd40c1d0e0','2059fea1f02b','{"name": "this-machine", "machine": "x86_64", "processor": "a processor", "cores": 4, "runtime": "onnxruntime", "runtime_version": "1.31", "os": "linux", "protocol": {"version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "affinity": [], "canary_ms": 0.2, "source": "worker", "driver": "", "noise": null}','local');
INSERT INTO "devices" VALUES('layered','22802b5e5df8','6f381bf6949a','{"name": "layered", "machine": "x86_64", "processor": "a processor", "cores": 4, "runtime": "onnxruntime", "runtime_version": "1.31", "os": "linux", "protocol": {"version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "affinity": [], "canary_ms": 0.2, "source": "worker", "driver": "", "noise": null}','local');
INSERT INTO "devices" VALUES('waiting','df1c297bf405',NULL,NULL,'local');
CREATE TABLE events (
	job_id VARCHAR(32) NOT NULL, 
	seq INTEGER NOT NULL, 
	at DOUBLE NOT NULL, 
	body JSON NOT NULL, 
	CONSTRAINT pk_events PRIMARY KEY (job_id, seq), 
	CONSTRAINT fk_events_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "events" VALUES('f5fd40c1d0e0',1,1796000000.0,'{"kind": "status", "before": null, "after": "queued", "reason": "submitted", "by": "local"}');
INSERT INTO "events" VALUES('f5fd40c1d0e0',2,1796000000.0,'{"kind": "status", "before": "queued", "after": "running", "reason": "claimed by worker-1", "by": ""}');
INSERT INTO "events" VALUES('f5fd40c1d0e0',3,1796000000.0,'{"kind": "stage_started", "stage": "profile", "position": 0, "total": 3}');
INSERT INTO "events" VALUES('f5fd40c1d0e0',4,1796000000.0,'{"kind": "stage_finished", "stage": "profile", "seconds": 3.2, "result": {"profile": {"name": "this-machine", "machine": "x86_64", "processor": "a processor", "cores": 4, "runtime": "onnxruntime", "runtime_version": "1.31", "os": "linux", "protocol": {"version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "affinity": [], "canary_ms": 0.2, "source": "worker", "driver": "", "noise": null}}}');
INSERT INTO "events" VALUES('f5fd40c1d0e0',5,1796000000.0,'{"kind": "stage_started", "stage": "measure", "position": 1, "total": 3}');
INSERT INTO "events" VALUES('f5fd40c1d0e0',6,1796000000.0,'{"kind": "stage_finished", "stage": "measure", "seconds": 60.0, "result": {"measured": 40, "refused": 0}}');
INSERT INTO "events" VALUES('f5fd40c1d0e0',7,1796000000.0,'{"kind": "stage_started", "stage": "fit", "position": 2, "total": 3}');
INSERT INTO "events" VALUES('f5fd40c1d0e0',8,1796000000.0,'{"kind": "stage_finished", "stage": "fit", "seconds": 1.1, "result": {"card": {"profile": "2059fea1f02b", "space": "mobilenet_v3-d96cbeca", "space_name": "mobilenet_v3", "family": "best", "protocol": {"id": "0144d14a1dc0", "version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "n": 40, "calibration": 40, "range_ms": [0.12074246125491256, 0.5073665997060991], "held_out": 8, "mape": 1.0483684455174453, "spearman": 1.0, "kendall": 0.9999999999999998, "kendall_interval": [1.0, 1.0], "coverage": 1.0, "measured_ms": [0.5073665997060991, 0.3844292966980952, 0.3997199058126399, 0.2889533019837034, 0.33391116954203104, 0.19765431774983044, 0.12074246125491256, 0.22189292015913967], "predicted_ms": [0.5152199102277936, 0.38099754142755093, 0.40419121810253555, 0.2918800082995503, 0.3345163147058402, 0.19613552460765502, 0.12247568298838665, 0.22506558459751813], "upper_ms": [0.5294159956652983, 0.3914953376932144, 0.4153280801518609, 0.2999223091754773, 0.34373339286903415, 0.20153973475052206, 0.12585031045367845, 0.23126691766823682], "measured_error": [], "noise": null, "kind": "predicted", "energy": null}, "blob": "7ff3dc075afd868da83497943983ac1f2f4a6f653df43a486dadbb505ab2ae95", "space_id": "mobilenet_v3-d96cbeca", "family": "best", "profile": "2059fea1f02b", "known": "0a15d3409209cc976493e17c8f63cde75fd3140a5275e1072c88f341a41798f4", "networks": 40, "energy": {"family": "best", "blob": "381cfb6e1e428419d5d6b5d113be06a9023d6407ebe388791ec3d59100d87ec5"}}}');
INSERT INTO "events" VALUES('f5fd40c1d0e0',9,1796000000.0,'{"kind": "status", "before": "running", "after": "succeeded", "reason": "", "by": ""}');
INSERT INTO "events" VALUES('22802b5e5df8',1,1796000000.0,'{"kind": "status", "before": null, "after": "queued", "reason": "submitted", "by": "local"}');
INSERT INTO "events" VALUES('22802b5e5df8',2,1796000000.0,'{"kind": "status", "before": "queued", "after": "running", "reason": "claimed by worker-1", "by": ""}');
INSERT INTO "events" VALUES('22802b5e5df8',3,1796000000.0,'{"kind": "stage_started", "stage": "profile", "position": 0, "total": 3}');
INSERT INTO "events" VALUES('22802b5e5df8',4,1796000000.0,'{"kind": "stage_finished", "stage": "profile", "seconds": 3.2, "result": {"profile": {"name": "layered", "machine": "x86_64", "processor": "a processor", "cores": 4, "runtime": "onnxruntime", "runtime_version": "1.31", "os": "linux", "protocol": {"version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "affinity": [], "canary_ms": 0.2, "source": "worker", "driver": "", "noise": null}}}');
INSERT INTO "events" VALUES('22802b5e5df8',5,1796000000.0,'{"kind": "stage_started", "stage": "measure", "position": 1, "total": 3}');
INSERT INTO "events" VALUES('22802b5e5df8',6,1796000000.0,'{"kind": "stage_finished", "stage": "measure", "seconds": 60.0, "result": {"measured": 40, "refused": 0}}');
INSERT INTO "events" VALUES('22802b5e5df8',7,1796000000.0,'{"kind": "stage_started", "stage": "fit", "position": 2, "total": 3}');
INSERT INTO "events" VALUES('22802b5e5df8',8,1796000000.0,'{"kind": "stage_finished", "stage": "fit", "seconds": 1.1, "result": {"card": {"profile": "6f381bf6949a", "space": "mobilenet_v3-d96cbeca", "space_name": "mobilenet_v3", "family": "layer_table", "protocol": {"id": "0144d14a1dc0", "version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "n": 40, "calibration": 40, "range_ms": [0.12074246125491256, 0.5073665997060991], "held_out": 8, "mape": 2.383454731488425, "spearman": 1.0, "kendall": 0.9999999999999998, "kendall_interval": [1.0, 1.0], "coverage": 1.0, "measured_ms": [0.5073665997060991, 0.3844292966980952, 0.3997199058126399, 0.2889533019837034, 0.33391116954203104, 0.19765431774983044, 0.12074246125491256, 0.22189292015913967], "predicted_ms": [0.476318359375, 0.38507080078125, 0.39794921875, 0.282470703125, 0.3155517578125, 0.19757080078125, 0.12091064453125, 0.231689453125], "upper_ms": [0.5411202440295271, 0.4374586903616461, 0.4520891838893537, 0.3209001139631793, 0.35848176084477895, 0.22444979881132485, 0.13736022596392786, 0.2632102058349673], "measured_error": [], "noise": null, "kind": "predicted", "energy": null}, "blob": "0adb6c3b04882e4b3a4877c0e015696d208e95b59de4518d277fc040918739f0", "space_id": "mobilenet_v3-d96cbeca", "family": "layer_table", "profile": "6f381bf6949a", "known": "0a15d3409209cc976493e17c8f63cde75fd3140a5275e1072c88f341a41798f4", "networks": 40}}');
INSERT INTO "events" VALUES('22802b5e5df8',9,1796000000.0,'{"kind": "status", "before": "running", "after": "succeeded", "reason": "", "by": ""}');
INSERT INTO "events" VALUES('5fa9ae1658ba',1,1796000000.0,'{"kind": "status", "before": null, "after": "queued", "reason": "submitted", "by": "local"}');
INSERT INTO "events" VALUES('5fa9ae1658ba',2,1796000000.0,'{"kind": "status", "before": "queued", "after": "running", "reason": "claimed by worker-1", "by": ""}');
INSERT INTO "events" VALUES('5fa9ae1658ba',3,1796000000.0,'{"kind": "stage_started", "stage": "estimate", "position": 0, "total": 6}');
INSERT INTO "events" VALUES('5fa9ae1658ba',4,1796000000.0,'{"kind": "stage_finished", "stage": "estimate", "seconds": 1.0, "result": {}}');
INSERT INTO "events" VALUES('5fa9ae1658ba',5,1796000000.0,'{"kind": "stage_started", "stage": "train", "position": 1, "total": 6}');
INSERT INTO "events" VALUES('5fa9ae1658ba',6,1796000000.0,'{"kind": "checkpoint", "stage": "train", "step": 720, "blob": "1111111111111111111111111111111111111111111111111111111111111111"}');
INSERT INTO "events" VALUES('5fa9ae1658ba',7,1796000000.0,'{"kind": "stage_finished", "stage": "train", "seconds": 9.0, "result": {"supernet": "1111111111111111111111111111111111111111111111111111111111111111"}}');
INSERT INTO "events" VALUES('5fa9ae1658ba',8,1796000000.0,'{"kind": "stage_started", "stage": "explore", "position": 2, "total": 6}');
INSERT INTO "events" VALUES('5fa9ae1658ba',9,1796000000.0,'{"kind": "evaluated", "candidates": [{"arch": {"space": "mobilenet_v3", "genes": [0, 2, 2, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 2, 0, 2, 0, 0]}, "origin": "search", "metrics": {"val_accuracy": 80.0, "test_accuracy": 79.0, "predicted_ms": 0.2, "upper_ms": 0.22, "params": 10000.0, "macs": 1000000.0}, "status": "unverified", "promised_ms": null, "measurement": null, "devices": {}, "extrapolated": null}, {"arch": {"space": "mobilenet_v3", "genes": [2, 0, 2, 1, 1, 0, 0, 0, 2, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 3, 0, 0, 1, 0, 1, 1, 1, 1]}, "origin": "search", "metrics": {"val_accuracy": 81.0, "test_accuracy": 80.0, "predicted_ms": 0.21000000000000002, "upper_ms": 0.23, "params": 10000.0, "macs": 1000000.0}, "status": "unverified", "promised_ms": null, "measurement": null, "devices": {}, "extrapolated": null}, {"arch": {"space": "mobilenet_v3", "genes": [2, 1, 3, 1, 1, 0, 1, 1, 2, 1, 2, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0, 1, 0, 0, 0, 0]}, "origin": "search", "metrics": {"val_accuracy": 82.0, "test_accuracy": 81.0, "predicted_ms": 0.22, "upper_ms": 0.24, "params": 10000.0, "macs": 1000000.0}, "status": "unverified", "promised_ms": null, "measurement": null, "devices": {}, "extrapolated": null}, {"arch": {"space": "mobilenet_v3", "genes": [1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 3, 1, 0, 1, 0, 0, 0, 0, 1, 2, 0, 0, 1, 0, 0, 0, 0, 0, 0]}, "origin": "search", "metrics": {"val_accuracy": 83.0, "test_accuracy": 82.0, "predicted_ms": 0.23, "upper_ms": 0.25, "params": 10000.0, "macs": 1000000.0}, "status": "unverified", "promised_ms": null, "measurement": null, "devices": {}, "extrapolated": null}]}');
INSERT INTO "events" VALUES('5fa9ae1658ba',10,1796000000.0,'{"kind": "stage_finished", "stage": "explore", "seconds": 3.0, "result": {}}');
INSERT INTO "events" VALUES('5fa9ae1658ba',11,1796000000.0,'{"kind": "stage_started", "stage": "verify", "position": 3, "total": 6}');
INSERT INTO "events" VALUES('5fa9ae1658ba',12,1796000000.0,'{"kind": "measured", "arch": {"space": "mobilenet_v3", "genes": [0, 2, 2, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 2, 0, 2, 0, 0]}, "origin": "search", "measurement": {"protocol": "0144d14a1dc0", "profile": "2059fea1f02b", "median_ms": 0.21, "low_ms": 0.2079, "high_ms": 0.21209999999999998, "runs": 400, "variation": 0.01, "drift": 1.0, "refused": null, "samples_ms": [], "p90_ms": null, "p99_ms": null, "cold_load_ms": null, "warm_load_ms": null, "sample_error": 0.0, "drift_error": 0.0, "undisturbed": 1.0}, "promised_ms": 0.22, "device": null}');
INSERT INTO "events" VALUES('5fa9ae1658ba',13,1796000000.0,'{"kind": "measured", "arch": {"space": "mobilenet_v3", "genes": [2, 0, 2, 1, 1, 0, 0, 0, 2, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 3, 0, 0, 1, 0, 1, 1, 1, 1]}, "origin": "search", "measurement": {"protocol": "0144d14a1dc0", "profile": "2059fea1f02b", "median_ms": 0.25, "low_ms": 0.2475, "high_ms": 0.2525, "runs": 400, "variation": 0.01, "drift": 1.0, "refused": null, "samples_ms": [], "p90_ms": null, "p99_ms": null, "cold_load_ms": null, "warm_load_ms": null, "sample_error": 0.0, "drift_error": 0.0, "undisturbed": 1.0}, "promised_ms": 0.23, "device": null}');
INSERT INTO "events" VALUES('5fa9ae1658ba',14,1796000000.0,'{"kind": "stage_finished", "stage": "verify", "seconds": 3.0, "result": {}}');
INSERT INTO "events" VALUES('5fa9ae1658ba',15,1796000000.0,'{"kind": "stage_started", "stage": "refine", "position": 4, "total": 6}');
INSERT INTO "events" VALUES('5fa9ae1658ba',16,1796000000.0,'{"kind": "refitted", "stage": "refine", "number": 1, "measured": [["search", "13245871dd89"]], "evaluated": 4, "broken": 1, "record": {"card": {"profile": "2059fea1f02b", "space": "mobilenet_v3-d96cbeca", "space_name": "mobilenet_v3", "family": "best", "protocol": {"id": "0144d14a1dc0", "version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "n": 44, "calibration": 44, "range_ms": [0.12074246125491256, 0.5073665997060991], "held_out": 8, "mape": 0.750983783670465, "spearman": 1.0, "kendall": 0.9999999999999998, "kendall_interval": [1.0, 1.0], "coverage": 1.0, "measured_ms": [0.5073665997060991, 0.3844292966980952, 0.3997199058126399, 0.2889533019837034, 0.33391116954203104, 0.19765431774983044, 0.12074246125491256, 0.22189292015913967], "predicted_ms": [0.5116883204351053, 0.38234576100488105, 0.40348770166159886, 0.29156052155185774, 0.3341857349388063, 0.19672355945852907, 0.12224693894013344, 0.224045361733443], "upper_ms": [0.5230470102055828, 0.3908332458875116, 0.4124445049466141, 0.2980327144500855, 0.3416041416862207, 0.2010905183926971, 0.12496063202116905, 0.22901882244538696], "measured_error": [], "noise": null, "kind": "predicted", "energy": null}, "blob": "ef05689ea56e1cbb3ad1503280e6d8ee7d2841652c0578feebc131b8d9392622", "family": "best", "better": true, "why": "cross-validated error: 1.0 % with what was fed back, 1.2 % without", "known": "9d61b069c9cf538fc9f78cf8d3dded5e978223c414203aa67920228e3a715d1d", "networks": 44, "added": 4}}');
INSERT INTO "events" VALUES('5fa9ae1658ba',17,1796000000.0,'{"kind": "stage_finished", "stage": "refine", "seconds": 1.0, "result": {"refits": 1, "rounds": 0, "broken": 1}}');
INSERT INTO "events" VALUES('5fa9ae1658ba',18,1796000000.0,'{"kind": "stage_started", "stage": "export", "position": 5, "total": 6}');
INSERT INTO "events" VALUES('5fa9ae1658ba',19,1796000000.0,'{"kind": "stage_finished", "stage": "export", "seconds": 1.0, "result": {}}');
INSERT INTO "events" VALUES('5fa9ae1658ba',20,1796000000.0,'{"kind": "status", "before": "running", "after": "succeeded", "reason": "", "by": ""}');
INSERT INTO "events" VALUES('187ee1b755ab',1,1796000000.0,'{"kind": "status", "before": null, "after": "queued", "reason": "submitted", "by": "local"}');
INSERT INTO "events" VALUES('187ee1b755ab',2,1796000000.0,'{"kind": "status", "before": "queued", "after": "running", "reason": "claimed by worker-1", "by": ""}');
INSERT INTO "events" VALUES('187ee1b755ab',3,1796000000.0,'{"kind": "stage_started", "stage": "estimate", "position": 0, "total": 6}');
INSERT INTO "events" VALUES('187ee1b755ab',4,1796000000.0,'{"kind": "stage_finished", "stage": "estimate", "seconds": 1.0, "result": {}}');
INSERT INTO "events" VALUES('187ee1b755ab',5,1796000000.0,'{"kind": "stage_started", "stage": "train", "position": 1, "total": 6}');
INSERT INTO "events" VALUES('187ee1b755ab',6,1796000000.0,'{"kind": "checkpoint", "stage": "train", "step": 7, "blob": "2222222222222222222222222222222222222222222222222222222222222222"}');
INSERT INTO "events" VALUES('187ee1b755ab',7,1796000000.0,'{"kind": "stage_finished", "stage": "train", "seconds": 9.0, "result": {"supernet": "2222222222222222222222222222222222222222222222222222222222222222"}}');
INSERT INTO "events" VALUES('187ee1b755ab',8,1796000000.0,'{"kind": "stage_started", "stage": "explore", "position": 2, "total": 6}');
INSERT INTO "events" VALUES('187ee1b755ab',9,1796000000.0,'{"kind": "evaluated", "candidates": [{"arch": {"space": "mobilenet_v3", "genes": [0, 2, 2, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 2, 0, 2, 0, 0]}, "origin": "search", "metrics": {"val_accuracy": 80.0, "test_accuracy": 79.0, "predicted_ms": 0.2, "upper_ms": 0.22, "params": 10000.0, "macs": 1000000.0}, "status": "unverified", "promised_ms": null, "measurement": null, "devices": {}, "extrapolated": null}, {"arch": {"space": "mobilenet_v3", "genes": [2, 0, 2, 1, 1, 0, 0, 0, 2, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 3, 0, 0, 1, 0, 1, 1, 1, 1]}, "origin": "search", "metrics": {"val_accuracy": 81.0, "test_accuracy": 80.0, "predicted_ms": 0.21000000000000002, "upper_ms": 0.23, "params": 10000.0, "macs": 1000000.0}, "status": "unverified", "promised_ms": null, "measurement": null, "devices": {}, "extrapolated": null}, {"arch": {"space": "mobilenet_v3", "genes": [2, 1, 3, 1, 1, 0, 1, 1, 2, 1, 2, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0, 1, 0, 0, 0, 0]}, "origin": "search", "metrics": {"val_accuracy": 82.0, "test_accuracy": 81.0, "predicted_ms": 0.22, "upper_ms": 0.24, "params": 10000.0, "macs": 1000000.0}, "status": "unverified", "promised_ms": null, "measurement": null, "devices": {}, "extrapolated": null}, {"arch": {"space": "mobilenet_v3", "genes": [1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 3, 1, 0, 1, 0, 0, 0, 0, 1, 2, 0, 0, 1, 0, 0, 0, 0, 0, 0]}, "origin": "search", "metrics": {"val_accuracy": 83.0, "test_accuracy": 82.0, "predicted_ms": 0.23, "upper_ms": 0.25, "params": 10000.0, "macs": 1000000.0}, "status": "unverified", "promised_ms": null, "measurement": null, "devices": {}, "extrapolated": null}]}');
INSERT INTO "events" VALUES('187ee1b755ab',10,1796000000.0,'{"kind": "stage_finished", "stage": "explore", "seconds": 3.0, "result": {}}');
INSERT INTO "events" VALUES('187ee1b755ab',11,1796000000.0,'{"kind": "stage_started", "stage": "verify", "position": 3, "total": 6}');
INSERT INTO "events" VALUES('187ee1b755ab',12,1796000000.0,'{"kind": "measured", "arch": {"space": "mobilenet_v3", "genes": [0, 2, 2, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 2, 0, 2, 0, 0]}, "origin": "search", "measurement": {"protocol": "0144d14a1dc0", "profile": "2059fea1f02b", "median_ms": 0.21, "low_ms": 0.2079, "high_ms": 0.21209999999999998, "runs": 400, "variation": 0.01, "drift": 1.0, "refused": null, "samples_ms": [], "p90_ms": null, "p99_ms": null, "cold_load_ms": null, "warm_load_ms": null, "sample_error": 0.0, "drift_error": 0.0, "undisturbed": 1.0}, "promised_ms": 0.22, "device": null}');
INSERT INTO "events" VALUES('187ee1b755ab',13,1796000000.0,'{"kind": "measured", "arch": {"space": "mobilenet_v3", "genes": [2, 0, 2, 1, 1, 0, 0, 0, 2, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 3, 0, 0, 1, 0, 1, 1, 1, 1]}, "origin": "search", "measurement": {"protocol": "0144d14a1dc0", "profile": "2059fea1f02b", "median_ms": 0.25, "low_ms": 0.2475, "high_ms": 0.2525, "runs": 400, "variation": 0.01, "drift": 1.0, "refused": null, "samples_ms": [], "p90_ms": null, "p99_ms": null, "cold_load_ms": null, "warm_load_ms": null, "sample_error": 0.0, "drift_error": 0.0, "undisturbed": 1.0}, "promised_ms": 0.23, "device": null}');
INSERT INTO "events" VALUES('187ee1b755ab',14,1796000000.0,'{"kind": "stage_finished", "stage": "verify", "seconds": 3.0, "result": {}}');
INSERT INTO "events" VALUES('187ee1b755ab',15,1796000000.0,'{"kind": "stage_started", "stage": "refine", "position": 4, "total": 6}');
INSERT INTO "events" VALUES('187ee1b755ab',16,1796000000.0,'{"kind": "refitted", "stage": "refine", "number": 1, "measured": [["search", "13245871dd89"]], "evaluated": 4, "broken": 1, "record": {"card": {"profile": "2059fea1f02b", "space": "mobilenet_v3-d96cbeca", "space_name": "mobilenet_v3", "family": "best", "protocol": {"id": "0144d14a1dc0", "version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "n": 44, "calibration": 44, "range_ms": [0.12074246125491256, 0.5073665997060991], "held_out": 8, "mape": 0.750983783670465, "spearman": 1.0, "kendall": 0.9999999999999998, "kendall_interval": [1.0, 1.0], "coverage": 1.0, "measured_ms": [0.5073665997060991, 0.3844292966980952, 0.3997199058126399, 0.2889533019837034, 0.33391116954203104, 0.19765431774983044, 0.12074246125491256, 0.22189292015913967], "predicted_ms": [0.5116883204351053, 0.38234576100488105, 0.40348770166159886, 0.29156052155185774, 0.3341857349388063, 0.19672355945852907, 0.12224693894013344, 0.224045361733443], "upper_ms": [0.5230470102055828, 0.3908332458875116, 0.4124445049466141, 0.2980327144500855, 0.3416041416862207, 0.2010905183926971, 0.12496063202116905, 0.22901882244538696], "measured_error": [], "noise": null, "kind": "predicted", "energy": null}, "blob": "ef05689ea56e1cbb3ad1503280e6d8ee7d2841652c0578feebc131b8d9392622", "family": "best", "better": true, "why": "cross-validated error: 1.0 % with what was fed back, 1.2 % without", "known": "9d61b069c9cf538fc9f78cf8d3dded5e978223c414203aa67920228e3a715d1d", "networks": 44, "added": 4}}');
INSERT INTO "events" VALUES('187ee1b755ab',17,1796000000.0,'{"kind": "status", "before": "running", "after": "queued", "reason": "interrupted", "by": ""}');
INSERT INTO "events" VALUES('df1c297bf405',1,1796000000.0,'{"kind": "status", "before": null, "after": "queued", "reason": "submitted", "by": "local"}');
CREATE TABLE front_members (
	job_id VARCHAR(32) NOT NULL, 
	device VARCHAR(64) NOT NULL, 
	origin VARCHAR(16) NOT NULL, 
	arch_id VARCHAR(16) NOT NULL, 
	CONSTRAINT pk_front_members PRIMARY KEY (job_id, device, origin, arch_id), 
	CONSTRAINT fk_front_members_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "front_members" VALUES('5fa9ae1658ba','','search','13245871dd89');
INSERT INTO "front_members" VALUES('5fa9ae1658ba','','search','6c46a907d82b');
INSERT INTO "front_members" VALUES('187ee1b755ab','','search','13245871dd89');
INSERT INTO "front_members" VALUES('187ee1b755ab','','search','6c46a907d82b');
CREATE TABLE fronts (
	job_id VARCHAR(32) NOT NULL, 
	device VARCHAR(64) NOT NULL, 
	size INTEGER NOT NULL, 
	verified INTEGER NOT NULL, 
	hypervolume DOUBLE, 
	baseline_hypervolume DOUBLE, 
	final BOOLEAN NOT NULL, 
	measured BOOLEAN NOT NULL, 
	CONSTRAINT pk_fronts PRIMARY KEY (job_id, device), 
	CONSTRAINT fk_fronts_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "fronts" VALUES('5fa9ae1658ba','',2,1,NULL,NULL,1,1);
INSERT INTO "fronts" VALUES('187ee1b755ab','',2,1,NULL,NULL,1,1);
CREATE TABLE hypervolumes (
	job_id VARCHAR(32) NOT NULL, 
	device VARCHAR(64) NOT NULL, 
	evaluations INTEGER NOT NULL, 
	seq INTEGER NOT NULL, 
	search DOUBLE NOT NULL, 
	baseline DOUBLE NOT NULL, 
	CONSTRAINT pk_hypervolumes PRIMARY KEY (job_id, device, evaluations), 
	CONSTRAINT fk_hypervolumes_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
CREATE TABLE jobs (
	id VARCHAR(32) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	name VARCHAR(120) NOT NULL, 
	spec JSON NOT NULL, 
	spec_hash VARCHAR(64) NOT NULL, 
	space_id VARCHAR(120), 
	status VARCHAR(16) NOT NULL, 
	idempotency_key VARCHAR(200), 
	parent_id VARCHAR(32), 
	created_at DOUBLE NOT NULL, 
	started_at DOUBLE, 
	finished_at DOUBLE, 
	error TEXT, 
	attempts INTEGER NOT NULL, 
	stalled INTEGER NOT NULL, 
	last_crash TEXT, 
	lease_owner VARCHAR(200), 
	lease_token INTEGER NOT NULL, 
	lease_expires_at DOUBLE, 
	last_seq INTEGER NOT NULL, 
	point_count INTEGER NOT NULL, 
	stages JSON NOT NULL, 
	state JSON NOT NULL, owner VARCHAR(120) DEFAULT 'local' NOT NULL, priority INTEGER DEFAULT '0' NOT NULL, lease_batch INTEGER DEFAULT '0' NOT NULL, busy_seconds DOUBLE DEFAULT '0' NOT NULL, busy_until DOUBLE, resources JSON DEFAULT '{}' NOT NULL, predictor_id VARCHAR(32), available_at DOUBLE, expired_token INTEGER, evaluations INTEGER DEFAULT '0' NOT NULL, extrapolated INTEGER DEFAULT '0' NOT NULL, extrapolated_measured INTEGER DEFAULT '0' NOT NULL, precedence INTEGER DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_jobs PRIMARY KEY (id), 
	CONSTRAINT uq_jobs_idempotency_key UNIQUE (idempotency_key), 
	CONSTRAINT fk_jobs_parent_id_jobs FOREIGN KEY(parent_id) REFERENCES jobs (id)
);
INSERT INTO "jobs" VALUES('f5fd40c1d0e0','device','this-machine','{"name": "this-machine", "source": "worker", "table": null, "roofline": null, "space": {"name": "mobilenet_v3", "params": {"preset": "digits"}}, "data": {"name": "digits", "path": null, "seed": 0, "params": {}}, "predictor": "best", "samples": 40, "threads": 1, "seed": 0}','fc7ddb331f7e585a76bbaa266fe19e1c7ca97e54e3ef41b5dc920aa9786767d8',NULL,'succeeded','local/key-this-machine',NULL,1796000000.0,1796000000.0,1796000000.0,NULL,1,0,NULL,NULL,1,NULL,9,0,'[{"name": "profile", "status": "finished", "done": 0, "total": 0, "unit": "", "values": {}, "message": "", "begun": 1796000000.0, "anchor": null, "latest": 1796000000.0, "kept": []}, {"name": "measure", "status": "finished", "done": 0, "total": 0, "unit": "", "values": {}, "message": "", "begun": 1796000000.0, "anchor": null, "latest": 1796000000.0, "kept": []}, {"name": "fit", "status": "finished", "done": 0, "total": 0, "unit": "", "values": {}, "message": "", "begun": 1796000000.0, "anchor": null, "latest": 1796000000.0, "kept": []}]','{"stage": "fit", "finished": {"profile": {"profile": {"name": "this-machine", "machine": "x86_64", "processor": "a processor", "cores": 4, "runtime": "onnxruntime", "runtime_version": "1.31", "os": "linux", "protocol": {"version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "affinity": [], "canary_ms": 0.2, "source": "worker", "driver": "", "noise": null}}, "measure": {"measured": 40, "refused": 0}, "fit": {"card": {"profile": "2059fea1f02b", "space": "mobilenet_v3-d96cbeca", "space_name": "mobilenet_v3", "family": "best", "protocol": {"id": "0144d14a1dc0", "version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "n": 40, "calibration": 40, "range_ms": [0.12074246125491256, 0.5073665997060991], "held_out": 8, "mape": 1.0483684455174453, "spearman": 1.0, "kendall": 0.9999999999999998, "kendall_interval": [1.0, 1.0], "coverage": 1.0, "measured_ms": [0.5073665997060991, 0.3844292966980952, 0.3997199058126399, 0.2889533019837034, 0.33391116954203104, 0.19765431774983044, 0.12074246125491256, 0.22189292015913967], "predicted_ms": [0.5152199102277936, 0.38099754142755093, 0.40419121810253555, 0.2918800082995503, 0.3345163147058402, 0.19613552460765502, 0.12247568298838665, 0.22506558459751813], "upper_ms": [0.5294159956652983, 0.3914953376932144, 0.4153280801518609, 0.2999223091754773, 0.34373339286903415, 0.20153973475052206, 0.12585031045367845, 0.23126691766823682], "measured_error": [], "noise": null, "kind": "predicted", "energy": null}, "blob": "7ff3dc075afd868da83497943983ac1f2f4a6f653df43a486dadbb505ab2ae95", "space_id": "mobilenet_v3-d96cbeca", "family": "best", "profile": "2059fea1f02b", "known": "0a15d3409209cc976493e17c8f63cde75fd3140a5275e1072c88f341a41798f4", "networks": 40, "energy": {"family": "best", "blob": "381cfb6e1e428419d5d6b5d113be06a9023d6407ebe388791ec3d59100d87ec5"}}}, "seconds": {"profile": 3.2, "measure": 60.0, "fit": 1.1}, "checkpoints": {}, "warnings": [], "refits": [], "data": null, "class_recall": {}, "conclusions": []}','local',0,1,0.0,NULL,'{"cpus": 1, "gpus": 0, "memory_gb": null, "labels": {}, "max_hours": null}',NULL,NULL,NULL,0,0,0,0);
INSERT INTO "jobs" VALUES('22802b5e5df8','device','layered','{"name": "layered", "source": "worker", "table": null, "roofline": null, "space": {"name": "mobilenet_v3", "params": {"preset": "digits"}}, "data": {"name": "digits", "path": null, "seed": 0, "params": {}}, "predictor": "layer_table", "samples": 40, "threads": 1, "seed": 0}','63b8ba60fe0f85a662702b9be784cb26cf51d9ffd0f277aa120394775991e4c9',NULL,'succeeded','local/key-layered',NULL,1796000000.0,1796000000.0,1796000000.0,NULL,1,0,NULL,NULL,1,NULL,9,0,'[{"name": "profile", "status": "finished", "done": 0, "total": 0, "unit": "", "values": {}, "message": "", "begun": 1796000000.0, "anchor": null, "latest": 1796000000.0, "kept": []}, {"name": "measure", "status": "finished", "done": 0, "total": 0, "unit": "", "values": {}, "message": "", "begun": 1796000000.0, "anchor": null, "latest": 1796000000.0, "kept": []}, {"name": "fit", "status": "finished", "done": 0, "total": 0, "unit": "", "values": {}, "message": "", "begun": 1796000000.0, "anchor": null, "latest": 1796000000.0, "kept": []}]','{"stage": "fit", "finished": {"profile": {"profile": {"name": "layered", "machine": "x86_64", "processor": "a processor", "cores": 4, "runtime": "onnxruntime", "runtime_version": "1.31", "os": "linux", "protocol": {"version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "affinity": [], "canary_ms": 0.2, "source": "worker", "driver": "", "noise": null}}, "measure": {"measured": 40, "refused": 0}, "fit": {"card": {"profile": "6f381bf6949a", "space": "mobilenet_v3-d96cbeca", "space_name": "mobilenet_v3", "family": "layer_table", "protocol": {"id": "0144d14a1dc0", "version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "n": 40, "calibration": 40, "range_ms": [0.12074246125491256, 0.5073665997060991], "held_out": 8, "mape": 2.383454731488425, "spearman": 1.0, "kendall": 0.9999999999999998, "kendall_interval": [1.0, 1.0], "coverage": 1.0, "measured_ms": [0.5073665997060991, 0.3844292966980952, 0.3997199058126399, 0.2889533019837034, 0.33391116954203104, 0.19765431774983044, 0.12074246125491256, 0.22189292015913967], "predicted_ms": [0.476318359375, 0.38507080078125, 0.39794921875, 0.282470703125, 0.3155517578125, 0.19757080078125, 0.12091064453125, 0.231689453125], "upper_ms": [0.5411202440295271, 0.4374586903616461, 0.4520891838893537, 0.3209001139631793, 0.35848176084477895, 0.22444979881132485, 0.13736022596392786, 0.2632102058349673], "measured_error": [], "noise": null, "kind": "predicted", "energy": null}, "blob": "0adb6c3b04882e4b3a4877c0e015696d208e95b59de4518d277fc040918739f0", "space_id": "mobilenet_v3-d96cbeca", "family": "layer_table", "profile": "6f381bf6949a", "known": "0a15d3409209cc976493e17c8f63cde75fd3140a5275e1072c88f341a41798f4", "networks": 40}}, "seconds": {"profile": 3.2, "measure": 60.0, "fit": 1.1}, "checkpoints": {}, "warnings": [], "refits": [], "data": null, "class_recall": {}, "conclusions": []}','local',0,1,0.0,NULL,'{"cpus": 1, "gpus": 0, "memory_gb": null, "labels": {}, "max_hours": null}',NULL,NULL,NULL,0,0,0,0);
INSERT INTO "jobs" VALUES('5fa9ae1658ba','search','whole','{"name": "whole", "space": {"name": "mobilenet_v3", "params": {"preset": "digits"}}, "strategy": {"name": "once_for_all", "params": {}}, "data": {"name": "digits", "path": null, "seed": 0, "params": {}}, "device": "this-machine", "objectives": [{"name": "accuracy", "bound": null}, {"name": "latency", "bound": null}], "budget": {"evaluations": 160, "verified": 24, "reexplore": 2}, "export": {"count": null, "int8": true}, "resources": {"cpus": 1, "gpus": 0, "memory_gb": null, "labels": {}, "max_hours": null}, "seed": 0, "supernet": null, "retrain": null, "fleet": null}','7a7b6589c72c25f9aa661276ebfe3b12cd49940441b968072d46927906646c99','mobilenet_v3-d96cbeca','succeeded','local/key-whole',NULL,1796000000.0,1796000000.0,1796000000.0,NULL,1,0,NULL,NULL,1,NULL,20,4,'[{"name": "estimate", "status": "finished", "done": 0, "total": 0, "unit": "", "values": {}, "message": "", "begun": 1796000000.0, "anchor": null, "latest": 1796000000.0, "kept": []}, {"name": "train", "status": "finished", "done": 0, "total": 0, "unit": "", "values": {}, "message": "", "begun": 1796000000.0, "anchor": null, "latest": 1796000000.0, "kept": []}, {"name": "explore", "status": "finished", "done": 0, "total": 0, "unit": "", "values": {}, "message": "", "begun": 1796000000.0, "anchor": null, "latest": 1796000000.0, "kept": []}, {"name": "verify", "status": "finished", "done": 0, "total": 0, "unit": "", "values": {}, "message": "", "begun": 1796000000.0, "anchor": null, "latest": 1796000000.0, "kept": []}, {"name": "refine", "status": "finished", "done": 0, "total": 0, "unit": "", "values": {}, "message": "", "begun": 1796000000.0, "anchor": null, "latest": 1796000000.0, "kept": []}, {"name": "export", "status": "finished", "done": 0, "total": 0, "unit": "", "values": {}, "message": "", "begun": 1796000000.0, "anchor": null, "latest": 1796000000.0, "kept": []}]','{"stage": "export", "finished": {"estimate": {}, "train": {"supernet": "1111111111111111111111111111111111111111111111111111111111111111"}, "explore": {}, "verify": {}, "refine": {"refits": 1, "rounds": 0, "broken": 1}, "export": {}}, "seconds": {"estimate": 1.0, "train": 9.0, "explore": 3.0, "verify": 3.0, "refine": 1.0, "export": 1.0}, "checkpoints": {"train": {"stage": "train", "step": 720, "blob": "1111111111111111111111111111111111111111111111111111111111111111"}}, "warnings": [], "refits": [{"stage": "refine", "number": 1, "measured": [["search", "13245871dd89"]], "evaluated": 4, "broken": 1, "record": {"card": {"profile": "2059fea1f02b", "space": "mobilenet_v3-d96cbeca", "space_name": "mobilenet_v3", "family": "best", "protocol": {"id": "0144d14a1dc0", "version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "n": 44, "calibration": 44, "range_ms": [0.12074246125491256, 0.5073665997060991], "held_out": 8, "mape": 0.750983783670465, "spearman": 1.0, "kendall": 0.9999999999999998, "kendall_interval": [1.0, 1.0], "coverage": 1.0, "measured_ms": [0.5073665997060991, 0.3844292966980952, 0.3997199058126399, 0.2889533019837034, 0.33391116954203104, 0.19765431774983044, 0.12074246125491256, 0.22189292015913967], "predicted_ms": [0.5116883204351053, 0.38234576100488105, 0.40348770166159886, 0.29156052155185774, 0.3341857349388063, 0.19672355945852907, 0.12224693894013344, 0.224045361733443], "upper_ms": [0.5230470102055828, 0.3908332458875116, 0.4124445049466141, 0.2980327144500855, 0.3416041416862207, 0.2010905183926971, 0.12496063202116905, 0.22901882244538696], "measured_error": [], "noise": null, "kind": "predicted", "energy": null}, "blob": "ef05689ea56e1cbb3ad1503280e6d8ee7d2841652c0578feebc131b8d9392622", "family": "best", "better": true, "why": "cross-validated error: 1.0 % with what was fed back, 1.2 % without", "known": "9d61b069c9cf538fc9f78cf8d3dded5e978223c414203aa67920228e3a715d1d", "networks": 44, "added": 4}}], "data": null, "class_recall": {}, "conclusions": []}','local',0,1,0.0,NULL,'{"cpus": 1, "gpus": 0, "memory_gb": null, "labels": {}, "max_hours": null}','f5fd40c1d0e0',NULL,NULL,4,0,0,0);
INSERT INTO "jobs" VALUES('187ee1b755ab','search','cut','{"name": "cut", "space": {"name": "mobilenet_v3", "params": {"preset": "digits"}}, "strategy": {"name": "once_for_all", "params": {}}, "data": {"name": "digits", "path": null, "seed": 0, "params": {}}, "device": "this-machine", "objectives": [{"name": "accuracy", "bound": null}, {"name": "latency", "bound": null}], "budget": {"evaluations": 160, "verified": 24, "reexplore": 2}, "export": {"count": null, "int8": true}, "resources": {"cpus": 1, "gpus": 0, "memory_gb": null, "labels": {}, "max_hours": null}, "seed": 0, "supernet": null, "retrain": null, "fleet": null}','031f3b65aede5bb78e97ad17f8ee0e78232e85af5ad772b0f18ea59b9616daaf','mobilenet_v3-d96cbeca','queued','local/key-cut',NULL,1796000000.0,1796000000.0,NULL,NULL,1,0,NULL,NULL,1,NULL,17,4,'[{"name": "estimate", "status": "finished", "done": 0, "total": 0, "unit": "", "values": {}, "message": "", "begun": 1796000000.0, "anchor": null, "latest": 1796000000.0, "kept": []}, {"name": "train", "status": "finished", "done": 0, "total": 0, "unit": "", "values": {}, "message": "", "begun": 1796000000.0, "anchor": null, "latest": 1796000000.0, "kept": []}, {"name": "explore", "status": "finished", "done": 0, "total": 0, "unit": "", "values": {}, "message": "", "begun": 1796000000.0, "anchor": null, "latest": 1796000000.0, "kept": []}, {"name": "verify", "status": "finished", "done": 0, "total": 0, "unit": "", "values": {}, "message": "", "begun": 1796000000.0, "anchor": null, "latest": 1796000000.0, "kept": []}, {"name": "refine", "status": "running", "done": 0, "total": 0, "unit": "", "values": {}, "message": "", "begun": 1796000000.0, "anchor": null, "latest": 1796000000.0, "kept": []}, {"name": "export", "status": "waiting", "done": 0, "total": 0, "unit": "", "values": {}, "message": "", "begun": null, "anchor": null, "latest": null, "kept": []}]','{"stage": "refine", "finished": {"estimate": {}, "train": {"supernet": "2222222222222222222222222222222222222222222222222222222222222222"}, "explore": {}, "verify": {}}, "seconds": {"estimate": 1.0, "train": 9.0, "explore": 3.0, "verify": 3.0}, "checkpoints": {"train": {"stage": "train", "step": 7, "blob": "2222222222222222222222222222222222222222222222222222222222222222"}}, "warnings": [], "refits": [{"stage": "refine", "number": 1, "measured": [["search", "13245871dd89"]], "evaluated": 4, "broken": 1, "record": {"card": {"profile": "2059fea1f02b", "space": "mobilenet_v3-d96cbeca", "space_name": "mobilenet_v3", "family": "best", "protocol": {"id": "0144d14a1dc0", "version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "n": 44, "calibration": 44, "range_ms": [0.12074246125491256, 0.5073665997060991], "held_out": 8, "mape": 0.750983783670465, "spearman": 1.0, "kendall": 0.9999999999999998, "kendall_interval": [1.0, 1.0], "coverage": 1.0, "measured_ms": [0.5073665997060991, 0.3844292966980952, 0.3997199058126399, 0.2889533019837034, 0.33391116954203104, 0.19765431774983044, 0.12074246125491256, 0.22189292015913967], "predicted_ms": [0.5116883204351053, 0.38234576100488105, 0.40348770166159886, 0.29156052155185774, 0.3341857349388063, 0.19672355945852907, 0.12224693894013344, 0.224045361733443], "upper_ms": [0.5230470102055828, 0.3908332458875116, 0.4124445049466141, 0.2980327144500855, 0.3416041416862207, 0.2010905183926971, 0.12496063202116905, 0.22901882244538696], "measured_error": [], "noise": null, "kind": "predicted", "energy": null}, "blob": "ef05689ea56e1cbb3ad1503280e6d8ee7d2841652c0578feebc131b8d9392622", "family": "best", "better": true, "why": "cross-validated error: 1.0 % with what was fed back, 1.2 % without", "known": "9d61b069c9cf538fc9f78cf8d3dded5e978223c414203aa67920228e3a715d1d", "networks": 44, "added": 4}}], "data": null, "class_recall": {}, "conclusions": []}','local',0,1,0.0,NULL,'{"cpus": 1, "gpus": 0, "memory_gb": null, "labels": {}, "max_hours": null}','5fa9ae1658ba-1',NULL,NULL,4,0,0,0);
INSERT INTO "jobs" VALUES('df1c297bf405','device','waiting','{"name": "waiting", "source": "worker", "table": null, "roofline": null, "space": {"name": "mobilenet_v3", "params": {"preset": "digits"}}, "data": {"name": "digits", "path": null, "seed": 0, "params": {}}, "predictor": "best", "samples": 96, "threads": 1, "seed": 0}','53fc37956d014ec514ed3885650624f81b4d027b3db2a1198f6e063ead71c6b8',NULL,'queued','local/key-waiting',NULL,1796000000.0,NULL,NULL,NULL,0,0,NULL,NULL,0,NULL,1,0,'[{"name": "profile", "status": "waiting", "done": 0, "total": 0, "unit": "", "values": {}, "message": "", "begun": null, "anchor": null, "latest": null, "kept": []}, {"name": "measure", "status": "waiting", "done": 0, "total": 0, "unit": "", "values": {}, "message": "", "begun": null, "anchor": null, "latest": null, "kept": []}, {"name": "fit", "status": "waiting", "done": 0, "total": 0, "unit": "", "values": {}, "message": "", "begun": null, "anchor": null, "latest": null, "kept": []}]','{"stage": null, "finished": {}, "seconds": {}, "checkpoints": {}, "warnings": [], "refits": [], "data": null, "class_recall": {}, "conclusions": []}','local',0,0,0.0,NULL,'{"cpus": 1, "gpus": 0, "memory_gb": null, "labels": {}, "max_hours": null}',NULL,NULL,NULL,0,0,0,0);
CREATE TABLE "measurements" (
	id VARCHAR(32) NOT NULL, 
	job_id VARCHAR(32) NOT NULL, 
	position INTEGER NOT NULL, 
	device VARCHAR(64) NOT NULL, 
	network VARCHAR(64) NOT NULL, 
	protocol VARCHAR(16) NOT NULL, 
	profile JSON NOT NULL, 
	blob VARCHAR(64) NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	attempts INTEGER NOT NULL, 
	lease_token VARCHAR(32), 
	lease_instance VARCHAR(64), 
	lease_expires_at DOUBLE, 
	result JSON, 
	raw JSON, 
	created_at DOUBLE NOT NULL, 
	updated_at DOUBLE NOT NULL, 
	CONSTRAINT pk_measurements PRIMARY KEY (id), 
	CONSTRAINT fk_measurements_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE, 
	CONSTRAINT uq_measurements_job_id_device_network_protocol UNIQUE (job_id, device, network, protocol)
);
CREATE TABLE owners (
	name VARCHAR(120) NOT NULL, 
	max_queued INTEGER, 
	max_running INTEGER, 
	gpu_hours DOUBLE, 
	CONSTRAINT pk_owners PRIMARY KEY (name)
);
CREATE TABLE points (
	job_id VARCHAR(32) NOT NULL, 
	origin VARCHAR(16) NOT NULL, 
	arch_id VARCHAR(16) NOT NULL, 
	position INTEGER NOT NULL, 
	space VARCHAR(120) NOT NULL, 
	genes JSON NOT NULL, 
	metrics JSON NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	promised_ms DOUBLE, 
	measurement JSON, seq INTEGER DEFAULT '0' NOT NULL, devices JSON, extrapolated BOOLEAN, 
	CONSTRAINT pk_points PRIMARY KEY (job_id, origin, arch_id), 
	CONSTRAINT fk_points_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "points" VALUES('5fa9ae1658ba','search','13245871dd89',1,'mobilenet_v3','[0, 2, 2, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 2, 0, 2, 0, 0]','{"val_accuracy": 80.0, "test_accuracy": 79.0, "predicted_ms": 0.2, "upper_ms": 0.22, "params": 10000.0, "macs": 1000000.0, "measured_ms": 0.21}','verified',0.22,'{"protocol": "0144d14a1dc0", "profile": "2059fea1f02b", "median_ms": 0.21, "low_ms": 0.2079, "high_ms": 0.21209999999999998, "runs": 400, "variation": 0.01, "drift": 1.0, "refused": null, "samples_ms": [], "p90_ms": null, "p99_ms": null, "cold_load_ms": null, "warm_load_ms": null, "sample_error": 0.0, "drift_error": 0.0, "undisturbed": 1.0}',12,NULL,NULL);
INSERT INTO "points" VALUES('5fa9ae1658ba','search','6c46a907d82b',2,'mobilenet_v3','[2, 0, 2, 1, 1, 0, 0, 0, 2, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 3, 0, 0, 1, 0, 1, 1, 1, 1]','{"val_accuracy": 81.0, "test_accuracy": 80.0, "predicted_ms": 0.21000000000000002, "upper_ms": 0.23, "params": 10000.0, "macs": 1000000.0, "measured_ms": 0.25}','violated',0.23,'{"protocol": "0144d14a1dc0", "profile": "2059fea1f02b", "median_ms": 0.25, "low_ms": 0.2475, "high_ms": 0.2525, "runs": 400, "variation": 0.01, "drift": 1.0, "refused": null, "samples_ms": [], "p90_ms": null, "p99_ms": null, "cold_load_ms": null, "warm_load_ms": null, "sample_error": 0.0, "drift_error": 0.0, "undisturbed": 1.0}',13,NULL,NULL);
INSERT INTO "points" VALUES('5fa9ae1658ba','search','81f1a89e217b',3,'mobilenet_v3','[2, 1, 3, 1, 1, 0, 1, 1, 2, 1, 2, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0, 1, 0, 0, 0, 0]','{"val_accuracy": 82.0, "test_accuracy": 81.0, "predicted_ms": 0.22, "upper_ms": 0.24, "params": 10000.0, "macs": 1000000.0}','unverified',NULL,NULL,9,NULL,NULL);
INSERT INTO "points" VALUES('5fa9ae1658ba','search','e846e346b768',4,'mobilenet_v3','[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 3, 1, 0, 1, 0, 0, 0, 0, 1, 2, 0, 0, 1, 0, 0, 0, 0, 0, 0]','{"val_accuracy": 83.0, "test_accuracy": 82.0, "predicted_ms": 0.23, "upper_ms": 0.25, "params": 10000.0, "macs": 1000000.0}','unverified',NULL,NULL,9,NULL,NULL);
INSERT INTO "points" VALUES('187ee1b755ab','search','13245871dd89',1,'mobilenet_v3','[0, 2, 2, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 2, 0, 2, 0, 0]','{"val_accuracy": 80.0, "test_accuracy": 79.0, "predicted_ms": 0.2, "upper_ms": 0.22, "params": 10000.0, "macs": 1000000.0, "measured_ms": 0.21}','verified',0.22,'{"protocol": "0144d14a1dc0", "profile": "2059fea1f02b", "median_ms": 0.21, "low_ms": 0.2079, "high_ms": 0.21209999999999998, "runs": 400, "variation": 0.01, "drift": 1.0, "refused": null, "samples_ms": [], "p90_ms": null, "p99_ms": null, "cold_load_ms": null, "warm_load_ms": null, "sample_error": 0.0, "drift_error": 0.0, "undisturbed": 1.0}',12,NULL,NULL);
INSERT INTO "points" VALUES('187ee1b755ab','search','6c46a907d82b',2,'mobilenet_v3','[2, 0, 2, 1, 1, 0, 0, 0, 2, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 3, 0, 0, 1, 0, 1, 1, 1, 1]','{"val_accuracy": 81.0, "test_accuracy": 80.0, "predicted_ms": 0.21000000000000002, "upper_ms": 0.23, "params": 10000.0, "macs": 1000000.0, "measured_ms": 0.25}','violated',0.23,'{"protocol": "0144d14a1dc0", "profile": "2059fea1f02b", "median_ms": 0.25, "low_ms": 0.2475, "high_ms": 0.2525, "runs": 400, "variation": 0.01, "drift": 1.0, "refused": null, "samples_ms": [], "p90_ms": null, "p99_ms": null, "cold_load_ms": null, "warm_load_ms": null, "sample_error": 0.0, "drift_error": 0.0, "undisturbed": 1.0}',13,NULL,NULL);
INSERT INTO "points" VALUES('187ee1b755ab','search','81f1a89e217b',3,'mobilenet_v3','[2, 1, 3, 1, 1, 0, 1, 1, 2, 1, 2, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0, 1, 0, 0, 0, 0]','{"val_accuracy": 82.0, "test_accuracy": 81.0, "predicted_ms": 0.22, "upper_ms": 0.24, "params": 10000.0, "macs": 1000000.0}','unverified',NULL,NULL,9,NULL,NULL);
INSERT INTO "points" VALUES('187ee1b755ab','search','e846e346b768',4,'mobilenet_v3','[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 3, 1, 0, 1, 0, 0, 0, 0, 1, 2, 0, 0, 1, 0, 0, 0, 0, 0, 0]','{"val_accuracy": 83.0, "test_accuracy": 82.0, "predicted_ms": 0.23, "upper_ms": 0.25, "params": 10000.0, "macs": 1000000.0}','unverified',NULL,NULL,9,NULL,NULL);
CREATE TABLE predictors (
	id VARCHAR(32) NOT NULL, 
	device VARCHAR(64) NOT NULL, 
	profile_id VARCHAR(16) NOT NULL, 
	profile JSON NOT NULL, 
	space_id VARCHAR(120) NOT NULL, 
	family VARCHAR(64) NOT NULL, 
	card JSON NOT NULL, 
	blob VARCHAR(64) NOT NULL, 
	created_at DOUBLE NOT NULL, 
	number INTEGER NOT NULL, 
	"before" VARCHAR(32), 
	search_id VARCHAR(32), 
	known VARCHAR(64), 
	networks INTEGER NOT NULL, 
	better BOOLEAN NOT NULL, 
	why TEXT NOT NULL, 
	CONSTRAINT pk_predictors PRIMARY KEY (id), 
	CONSTRAINT fk_predictors_device_devices FOREIGN KEY(device) REFERENCES devices (name)
);
INSERT INTO "predictors" VALUES('f5fd40c1d0e0','this-machine','2059fea1f02b','{"name": "this-machine", "machine": "x86_64", "processor": "a processor", "cores": 4, "runtime": "onnxruntime", "runtime_version": "1.31", "os": "linux", "protocol": {"version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "affinity": [], "canary_ms": 0.2, "source": "worker", "driver": "", "noise": null}','mobilenet_v3-d96cbeca','best','{"profile": "2059fea1f02b", "space": "mobilenet_v3-d96cbeca", "space_name": "mobilenet_v3", "family": "best", "protocol": {"id": "0144d14a1dc0", "version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "n": 40, "calibration": 40, "range_ms": [0.12074246125491256, 0.5073665997060991], "held_out": 8, "mape": 1.0483684455174453, "spearman": 1.0, "kendall": 0.9999999999999998, "kendall_interval": [1.0, 1.0], "coverage": 1.0, "measured_ms": [0.5073665997060991, 0.3844292966980952, 0.3997199058126399, 0.2889533019837034, 0.33391116954203104, 0.19765431774983044, 0.12074246125491256, 0.22189292015913967], "predicted_ms": [0.5152199102277936, 0.38099754142755093, 0.40419121810253555, 0.2918800082995503, 0.3345163147058402, 0.19613552460765502, 0.12247568298838665, 0.22506558459751813], "upper_ms": [0.5294159956652983, 0.3914953376932144, 0.4153280801518609, 0.2999223091754773, 0.34373339286903415, 0.20153973475052206, 0.12585031045367845, 0.23126691766823682], "measured_error": [], "noise": null, "kind": "predicted", "energy": null}','7ff3dc075afd868da83497943983ac1f2f4a6f653df43a486dadbb505ab2ae95',1796000000.0,1,NULL,NULL,'0a15d3409209cc976493e17c8f63cde75fd3140a5275e1072c88f341a41798f4',40,1,'');
INSERT INTO "predictors" VALUES('22802b5e5df8','layered','6f381bf6949a','{"name": "layered", "machine": "x86_64", "processor": "a processor", "cores": 4, "runtime": "onnxruntime", "runtime_version": "1.31", "os": "linux", "protocol": {"version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "affinity": [], "canary_ms": 0.2, "source": "worker", "driver": "", "noise": null}','mobilenet_v3-d96cbeca','layer_table','{"profile": "6f381bf6949a", "space": "mobilenet_v3-d96cbeca", "space_name": "mobilenet_v3", "family": "layer_table", "protocol": {"id": "0144d14a1dc0", "version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "n": 40, "calibration": 40, "range_ms": [0.12074246125491256, 0.5073665997060991], "held_out": 8, "mape": 2.383454731488425, "spearman": 1.0, "kendall": 0.9999999999999998, "kendall_interval": [1.0, 1.0], "coverage": 1.0, "measured_ms": [0.5073665997060991, 0.3844292966980952, 0.3997199058126399, 0.2889533019837034, 0.33391116954203104, 0.19765431774983044, 0.12074246125491256, 0.22189292015913967], "predicted_ms": [0.476318359375, 0.38507080078125, 0.39794921875, 0.282470703125, 0.3155517578125, 0.19757080078125, 0.12091064453125, 0.231689453125], "upper_ms": [0.5411202440295271, 0.4374586903616461, 0.4520891838893537, 0.3209001139631793, 0.35848176084477895, 0.22444979881132485, 0.13736022596392786, 0.2632102058349673], "measured_error": [], "noise": null, "kind": "predicted", "energy": null}','0adb6c3b04882e4b3a4877c0e015696d208e95b59de4518d277fc040918739f0',1796000000.0,1,NULL,NULL,'0a15d3409209cc976493e17c8f63cde75fd3140a5275e1072c88f341a41798f4',40,1,'');
INSERT INTO "predictors" VALUES('5fa9ae1658ba-1','this-machine','2059fea1f02b','{"name": "this-machine", "machine": "x86_64", "processor": "a processor", "cores": 4, "runtime": "onnxruntime", "runtime_version": "1.31", "os": "linux", "protocol": {"version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "affinity": [], "canary_ms": 0.2, "source": "worker", "driver": "", "noise": null}','mobilenet_v3-d96cbeca','best','{"profile": "2059fea1f02b", "space": "mobilenet_v3-d96cbeca", "space_name": "mobilenet_v3", "family": "best", "protocol": {"id": "0144d14a1dc0", "version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "n": 44, "calibration": 44, "range_ms": [0.12074246125491256, 0.5073665997060991], "held_out": 8, "mape": 0.750983783670465, "spearman": 1.0, "kendall": 0.9999999999999998, "kendall_interval": [1.0, 1.0], "coverage": 1.0, "measured_ms": [0.5073665997060991, 0.3844292966980952, 0.3997199058126399, 0.2889533019837034, 0.33391116954203104, 0.19765431774983044, 0.12074246125491256, 0.22189292015913967], "predicted_ms": [0.5116883204351053, 0.38234576100488105, 0.40348770166159886, 0.29156052155185774, 0.3341857349388063, 0.19672355945852907, 0.12224693894013344, 0.224045361733443], "upper_ms": [0.5230470102055828, 0.3908332458875116, 0.4124445049466141, 0.2980327144500855, 0.3416041416862207, 0.2010905183926971, 0.12496063202116905, 0.22901882244538696], "measured_error": [], "noise": null, "kind": "predicted", "energy": null}','ef05689ea56e1cbb3ad1503280e6d8ee7d2841652c0578feebc131b8d9392622',1796000000.0,2,'f5fd40c1d0e0','5fa9ae1658ba','9d61b069c9cf538fc9f78cf8d3dded5e978223c414203aa67920228e3a715d1d',44,1,'cross-validated error: 1.0 % with what was fed back, 1.2 % without');
INSERT INTO "predictors" VALUES('187ee1b755ab-1','this-machine','2059fea1f02b','{"name": "this-machine", "machine": "x86_64", "processor": "a processor", "cores": 4, "runtime": "onnxruntime", "runtime_version": "1.31", "os": "linux", "protocol": {"version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "affinity": [], "canary_ms": 0.2, "source": "worker", "driver": "", "noise": null}','mobilenet_v3-d96cbeca','best','{"profile": "2059fea1f02b", "space": "mobilenet_v3-d96cbeca", "space_name": "mobilenet_v3", "family": "best", "protocol": {"id": "0144d14a1dc0", "version": 3, "threads": 1, "batch": 1, "precision": "float32", "loads": 3, "sittings": 3, "most_sittings": 5, "survey_ms": 100.0, "patience_ms": 3000.0, "warmup_ms": 30.0, "warmup_windows": 20, "chunk_ms": 0.1, "chunk_ticks": 100, "visit_ms": 10.0, "fewest_visits": 4, "fewest_chunks": 20, "gate": 0.05, "quantile": 0.25, "level_quantile": 0.05, "level_window_ms": 5000.0, "target": 0.003, "budget_ms": 600.0, "settled": 0.03, "close_sittings": 8, "session_error": 0.004}, "n": 44, "calibration": 44, "range_ms": [0.12074246125491256, 0.5073665997060991], "held_out": 8, "mape": 0.750983783670465, "spearman": 1.0, "kendall": 0.9999999999999998, "kendall_interval": [1.0, 1.0], "coverage": 1.0, "measured_ms": [0.5073665997060991, 0.3844292966980952, 0.3997199058126399, 0.2889533019837034, 0.33391116954203104, 0.19765431774983044, 0.12074246125491256, 0.22189292015913967], "predicted_ms": [0.5116883204351053, 0.38234576100488105, 0.40348770166159886, 0.29156052155185774, 0.3341857349388063, 0.19672355945852907, 0.12224693894013344, 0.224045361733443], "upper_ms": [0.5230470102055828, 0.3908332458875116, 0.4124445049466141, 0.2980327144500855, 0.3416041416862207, 0.2010905183926971, 0.12496063202116905, 0.22901882244538696], "measured_error": [], "noise": null, "kind": "predicted", "energy": null}','ef05689ea56e1cbb3ad1503280e6d8ee7d2841652c0578feebc131b8d9392622',1796000000.0,3,'5fa9ae1658ba-1','187ee1b755ab','9d61b069c9cf538fc9f78cf8d3dded5e978223c414203aa67920228e3a715d1d',44,1,'cross-validated error: 1.0 % with what was fed back, 1.2 % without');
CREATE TABLE readings (
	id INTEGER NOT NULL, 
	device VARCHAR(64) NOT NULL, 
	at DOUBLE NOT NULL, 
	profile_id VARCHAR(16) NOT NULL, 
	protocol VARCHAR(16) NOT NULL, 
	job_id VARCHAR(32) NOT NULL, 
	canary DOUBLE NOT NULL, 
	space_id VARCHAR(120), 
	predictor_id VARCHAR(32), 
	arch_id VARCHAR(16), 
	genes JSON, 
	measured_ms DOUBLE, 
	predicted_ms DOUBLE, 
	CONSTRAINT pk_readings PRIMARY KEY (id)
);
INSERT INTO "readings" VALUES(1,'this-machine',1796000000.0,'2059fea1f02b','0144d14a1dc0','5fa9ae1658ba',1.0,'mobilenet_v3-d96cbeca','f5fd40c1d0e0','13245871dd89','[0, 2, 2, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 2, 0, 2, 0, 0]',0.21,0.2);
INSERT INTO "readings" VALUES(2,'this-machine',1796000000.0,'2059fea1f02b','0144d14a1dc0','5fa9ae1658ba',1.0,'mobilenet_v3-d96cbeca','f5fd40c1d0e0','6c46a907d82b','[2, 0, 2, 1, 1, 0, 0, 0, 2, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 3, 0, 0, 1, 0, 1, 1, 1, 1]',0.25,2.10000000000000019984e-01);
INSERT INTO "readings" VALUES(3,'this-machine',1796000000.0,'2059fea1f02b','0144d14a1dc0','187ee1b755ab',1.0,'mobilenet_v3-d96cbeca','5fa9ae1658ba-1','13245871dd89','[0, 2, 2, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 2, 0, 2, 0, 0]',0.21,0.2);
INSERT INTO "readings" VALUES(4,'this-machine',1796000000.0,'2059fea1f02b','0144d14a1dc0','187ee1b755ab',1.0,'mobilenet_v3-d96cbeca','5fa9ae1658ba-1','6c46a907d82b','[2, 0, 2, 1, 1, 0, 0, 0, 2, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 3, 0, 0, 1, 0, 1, 1, 1, 1]',0.25,2.10000000000000019984e-01);
CREATE TABLE sessions (
	id VARCHAR(16) NOT NULL, 
	token_id VARCHAR(16) NOT NULL, 
	secret_hash VARCHAR(64) NOT NULL, 
	created_at DOUBLE NOT NULL, 
	expires_at DOUBLE NOT NULL, 
	CONSTRAINT pk_sessions PRIMARY KEY (id), 
	CONSTRAINT fk_sessions_token_id_tokens FOREIGN KEY(token_id) REFERENCES tokens (id)
);
CREATE TABLE tokens (
	id VARCHAR(16) NOT NULL, 
	owner VARCHAR(120) NOT NULL, 
	name VARCHAR(120) NOT NULL, 
	secret_hash VARCHAR(64) NOT NULL, 
	scopes JSON NOT NULL, 
	created_at DOUBLE NOT NULL, 
	expires_at DOUBLE, 
	revoked_at DOUBLE, 
	last_used_at DOUBLE, device VARCHAR(64), 
	CONSTRAINT pk_tokens PRIMARY KEY (id)
);
CREATE TABLE urgent_claims (
	owner VARCHAR(120) NOT NULL, 
	at DOUBLE NOT NULL, 
	CONSTRAINT pk_urgent_claims PRIMARY KEY (owner)
);
CREATE TABLE usage (
	owner VARCHAR(120) NOT NULL, 
	shard INTEGER NOT NULL, 
	events BIGINT NOT NULL, 
	evaluations BIGINT NOT NULL, 
	busy_seconds DOUBLE NOT NULL, 
	gpu_seconds DOUBLE NOT NULL, 
	CONSTRAINT pk_usage PRIMARY KEY (owner, shard)
);
INSERT INTO "usage" VALUES('local',3,26,4,0.0,0.0);
INSERT INTO "usage" VALUES('local',0,9,0,0.0,0.0);
INSERT INTO "usage" VALUES('local',6,21,4,0.0,0.0);
CREATE TABLE workers (
	owner VARCHAR(200) NOT NULL, 
	slots INTEGER NOT NULL, 
	seen_at DOUBLE NOT NULL, nodes JSON DEFAULT '[]' NOT NULL, free JSON DEFAULT '[]' NOT NULL, elastic BOOLEAN DEFAULT 0 NOT NULL, machine JSON, 
	CONSTRAINT pk_workers PRIMARY KEY (owner)
);
CREATE INDEX ix_jobs_kind_created_at_id ON jobs (kind, created_at, id);
CREATE UNIQUE INDEX ix_points_job_id_position ON points (job_id, position);
CREATE INDEX ix_jobs_owner_created_at_id ON jobs (owner, created_at, id);
CREATE INDEX ix_points_job_id_seq ON points (job_id, seq);
CREATE INDEX ix_audit_owner_id ON audit (owner, id);
CREATE INDEX ix_measurements_device_status ON measurements (device, status);
CREATE INDEX ix_predictors_device_space_id_created_at ON predictors (device, space_id, created_at);
CREATE INDEX ix_jobs_predictor_id ON jobs (predictor_id);
CREATE INDEX ix_readings_device_at ON readings (device, at);
CREATE INDEX ix_jobs_kind_status_created_at ON jobs (kind, status, created_at);
CREATE INDEX ix_jobs_parent_id ON jobs (parent_id);
CREATE INDEX ix_measurements_status_job_id ON measurements (status, job_id);
CREATE INDEX ix_jobs_queue ON jobs (status, owner, precedence, created_at, id, kind, available_at);
COMMIT;
