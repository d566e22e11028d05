use crate::domain::{Decimal, Refusal};

/// Characters of a name, at most.
const MAX_NAME: usize = 200;

/// An account to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAccount {
    /// What its owner calls it.
    pub name: String,
    /// What is on it.
    pub balance: Decimal,
}

/// What is to change of an account; something does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountChanges {
    /// What its owner calls it from now on.
    pub name: Option<String>,
    /// What is on it from now on.
    pub balance: Option<Decimal>,
}

impl NewAccount {
    /// Checks what was asked for; `balance` is the text of a JSON number.
    pub fn check(name: String, balance: &str) -> Result<Self, Refusal> {
        Ok(NewAccount { name: checked_name(name)?, balance: checked_balance(balance)? })
    }
}

impl AccountChanges {
    /// Checks what was asked for; `balance` is the text of a JSON number.
    pub fn check(name: Option<String>, balance: Option<&str>) -> Result<Self, Refusal> {
        if name.is_none() && balance.is_none() {
            let refusal = Refusal::invalid("name", "or balance must be given");
            return Err(refusal.with_field("balance", "or name must be given"));
        }
        let (name, balance) = (name.map(checked_name), balance.map(checked_balance));
        Ok(AccountChanges { name: name.transpose()?, balance: balance.transpose()? })
    }
}

fn checked_name(name: String) -> Result<String, Refusal> {
    let is_good = (1..=MAX_NAME).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    match is_good {
        true => Ok(name),
        false => {
            Err(Refusal::invalid("name", format!("must be 1-{MAX_NAME} characters, none of them a control")))
        }
    }
}

fn checked_balance(text: &str) -> Result<Decimal, Refusal> {
    Decimal::parse(text).map_err(|error| Refusal::invalid("balance", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_length_and_no_controls() {
        let check = |name: &str| NewAccount::check(name.into(), "1").is_ok();
        assert!(check("x") && check(&"봉".repeat(200)));
        for name in ["", &"봉".repeat(201), "a\nb", "\u{7f}"] {
            assert!(!check(name), "{name:?}");
        }
    }

    #[test]
    fn a_balance_is_an_exact_decimal_and_may_be_negative() {
        let balance = |text: &str| NewAccount::check("a".into(), text).map(|new| new.balance.to_string());
        assert_eq!(balance("-12.50"), Ok("-12.5".to_owned()));
        for text in ["\"1\"", "1e12", "0.0000001", "true"] {
            assert_eq!(balance(text).unwrap_err().fields[0].0, "balance", "{text}");
        }
    }

    #[test]
    fn a_change_changes_something() {
        assert!(AccountChanges::check(None, None).is_err());
        assert!(AccountChanges::check(Some("a".into()), None).is_ok());
        assert!(AccountChanges::check(None, Some("0")).is_ok());
        assert!(AccountChanges::check(Some(String::new()), Some("0")).is_err());
    }
}
