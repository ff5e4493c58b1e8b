//! Which of the origins that come into question gets a request.

use super::document::{Origin, OriginPool, Steering};
use super::state::OriginState;
use crate::regions::{Near, nearest};

/// One request in so many goes to any origin, so that the times of those that seem slow stay known.
const EXPLORE_ONE_IN: u64 = 20;

/// Where a request comes from, as far as that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vantage<'a> {
    /// The client's country.
    pub country: Option<&'a str>,
    /// The client's continent.
    pub continent: Option<&'a str>,
    /// The node's region.
    pub region: Option<&'a str>,
}

/// How near an origin is by its lists, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Nearness {
    Country,
    Continent,
    Region,
    /// It names no place: it is for all that no other names.
    Anywhere,
    Elsewhere,
}

impl Vantage<'_> {
    fn nearness(&self, origin: &Origin) -> Nearness {
        let names = |list: &[String], place: Option<&str>| {
            place.is_some_and(|place| list.iter().any(|name| name.eq_ignore_ascii_case(place)))
        };
        let Origin { countries, continents, regions, .. } = origin;
        if names(countries, self.country) {
            Nearness::Country
        } else if names(continents, self.continent) {
            Nearness::Continent
        } else if names(regions, self.region) {
            Nearness::Region
        } else if countries.is_empty() && continents.is_empty() && regions.is_empty() {
            Nearness::Anywhere
        } else {
            Nearness::Elsewhere
        }
    }
}

/// The origin among those `fit`, which are in the pool's order and at least one. `draw` gives a number below its
/// argument.
pub(super) fn steer(
    pool: &OriginPool,
    states: &[OriginState],
    fit: &[usize],
    vantage: &Vantage<'_>,
    draw: &mut impl FnMut(u64) -> u64,
) -> usize {
    let origin = |at: &usize| &pool.origins[*at];
    match pool.steering {
        Steering::Failover => fit[0],
        Steering::Weighted => weighted(pool, fit, draw),
        // Of those that are equally near the first.
        Steering::Geo => {
            *fit.iter().min_by_key(|at| vantage.nearness(origin(at))).expect("at least one is fit")
        }
        Steering::LeastOutstanding => {
            // Fractions compared without division: a/b < c/d as a*d < c*b.
            let busier = |a: usize, b: usize| {
                let load = |at: usize| u128::from(states[at].in_flight);
                let weight = |at: usize| u128::from(pool.origins[at].weight);
                (load(a) * weight(b)).cmp(&(load(b) * weight(a)))
            };
            let least = *fit.iter().min_by(|a, b| busier(**a, **b)).expect("at least one is fit");
            let equal: Vec<usize> =
                fit.iter().copied().filter(|at| busier(*at, least).is_eq()).collect();
            weighted(pool, &equal, draw)
        }
        Steering::Latency => by_latency(states, fit, draw),
    }
}

fn weighted(pool: &OriginPool, fit: &[usize], draw: &mut impl FnMut(u64) -> u64) -> usize {
    let weight = |at: &usize| u64::from(pool.origins[*at].weight);
    let mut left = draw(fit.iter().map(weight).sum());
    for at in fit {
        match left.checked_sub(weight(at)) {
            Some(less) => left = less,
            None => return *at,
        }
    }
    fit[fit.len() - 1]
}

fn by_latency(states: &[OriginState], fit: &[usize], draw: &mut impl FnMut(u64) -> u64) -> usize {
    let unknown: Vec<usize> =
        fit.iter().copied().filter(|at| states[*at].head_us.is_none()).collect();
    if !unknown.is_empty() {
        return any(&unknown, draw);
    }
    if draw(EXPLORE_ONE_IN) == 0 {
        return any(fit, draw);
    }
    let near = |at: &usize| Near {
        rtt_us: states[*at].head_us.unwrap_or(u64::MAX),
        load: states[*at].in_flight,
    };
    let near: Vec<Near> = fit.iter().map(near).collect();
    fit[nearest(&near, |below| draw(below as u64) as usize).expect("at least one is fit")]
}

fn any(of: &[usize], draw: &mut impl FnMut(u64) -> u64) -> usize {
    of[draw(of.len() as u64) as usize % of.len()]
}
