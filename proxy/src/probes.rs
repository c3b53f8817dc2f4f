//! The application's probes, as the injector wrote them into `REMORA_PROBES`.
