//! What an operator, a load balancer and Prometheus are told of real nodes by their admin listeners.

#[path = "admin/health.rs"]
mod health;
#[path = "admin/metrics.rs"]
mod metrics;
